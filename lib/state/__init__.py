"""The objects in the store: one file for each kind, with its key, its codec and its repository.

Damage. An object is damaged if it differs from what was written: invalid JSON, cut off, a wrong type in a field. It
affects only its own stream or integration. `status` names it (`damage.damaged`). A copy in `dead/` keeps the damage
visible after the object was rebuilt.

| Kind | File | If an object is damaged |
| `cursors/` | checkpoints.py | moved to `dead/`; rebuilt from the newest batch or receipt of the stream |
| `batches/` | batches.py | moved to `dead/`; a gap names the lost events; the stream reads them from Sophos again |
| `archive/` | batches.py | stays; `replay` names it |
| `ledger/` | ledger.py, receipts.py | stays, `audit` names it; its key holds all that the next receipt needs |
| `leases/` | leases.py | copied to `dead/`; rebuilt from the ledger; a batch delivered in part is sent again |
| `gaps/` | gaps.py | stays; listings skip it |
| `acknowledged/` | acknowledgements.py | stays; the acknowledged item needs attention again |
| `dead/` | dead_letters.py | stays; `replay` refuses it |
| `integrations/` | accounts.py | copied to `dead/`; rebuilt from Sophos; an operator's pause is lost |
| `devices/` | inventories.py | copied to `dead/`; every device's record is sent again |
| `schedules/` | schedules.py | copied to `dead/`; every stream counts as never polled |
| `budgets/` | rate_limits.py | copied to `dead/`; the other instances' calls are unknown until they publish again |
| `reconciliations/`, `backfills/` | reconciliations.py | copied to `dead/`; the next one starts from the beginning |
| `looks/` | looks.py | copied to `dead/`; the day's counts start again |
| `charts/` | emulator/web | copied to `dead/`; the page counts today again |

An object of a newer layout is not damaged, and nothing overwrites it. Code that needs it fails with LayoutError, for
its own stream or integration only.
"""
