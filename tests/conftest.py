"""What holds for every test."""

from hypothesis import settings

# Speed is measured by `make bench`; a machine that is busy with other things makes no test fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
