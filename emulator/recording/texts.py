"""Finds names of people, machines and places in the values of events, and replaces them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from emulator.recording.forms import plain, repacked, unpacked
from emulator.recording.pseudonyms import Pseudonyms
from lib.model.page import SophosTenant

_KEPT = """
type severity group when created_at endpoint_type endpoint_platform origin result suspendResult category product
allowedActions threat_status threatSubType detectionType policy_type threat_cleanable has_more
"""
KEPT = frozenset(_KEPT.split())
"""Keys whose values are Sophos's own words, or times."""
NUMBERS_OF = frozenset({"user_match_id", "threat_id"})
"""Objects that hold an identifier as numbers."""
_NOBODY = """
-|n/a|unknown|none|system|local service|network service|nt authority|administrator|root|public|default|default user
all users|shared|builtin
"""
NOBODY = frozenset(("", *_NOBODY.strip().replace("\n", "|").split("|")))
"""Account names that exist on many machines. They identify nobody, so they stay."""
_WORDS = re.compile(r"[A-Za-z0-9_:. +-]{0,120}", re.ASCII)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|[{}\[\]:,]', re.DOTALL)
_IS_ID = re.compile(
    r"(?:^|_)id$|[a-z]Id$|[a-z]ID$|(?:^|_)(?:imei|imsi|udid|serial|phone)(?:_?number)?$|[a-z](?:Serial|Phone)(?:Number)?$"
    r"|^(?:serial|phone|mobile)_?[nN]umber$"
)
_PEOPLE = """
source user username user_name userName full_name fullName login viaLogin suser duser owner managedBy users person
assignedTo displayName display_name
"""
USERS = frozenset(_PEOPLE.split())
"""Keys whose values are a user's name."""
_MACHINES = """
location hostname computerName computer_name deviceName device_name dhost shost fqdn host computer device managedAgent
"""
HOSTS = frozenset(_MACHINES.split())
"""Keys whose values are a machine's name."""
_NAMES = frozenset({"name", "displayName", "display_name"})
"""Keys whose values are the name of what the key around them says."""
_PROCESS = re.compile(r"process_?id$|pid$", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{22}==", re.ASCII)
_UUID = r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
_FOUND = re.compile(
    rf"""
      (?P<email>(?<![\w.%+-])[\w%+-][\w.%+'-]*@[\w-]+(?:\.[\w-]+)+)
    | (?P<uuid>(?<![0-9A-Fa-f-]){_UUID}(?![0-9A-Fa-f]))
    | (?P<sid>S-1-(?:5-21|12-1)(?:-\d+)+)
    | (?P<mac>(?<![\w:-])(?:[0-9A-Fa-f]{{2}}[:-]){{5}}[0-9A-Fa-f]{{2}}(?![\w:-])
        | (?<![\w.])(?=[\d.]*[a-f])(?:[0-9a-f]{{4}}\.){{2}}[0-9a-f]{{4}}(?![\w.])
        | (?<=mac[=:\ ])[0-9a-f]{{12}}(?!\w))
    | (?P<phone>(?<![\w+])\+\d[\d\ ()/-]{{7,18}}\d(?!\w) | (?<!\w)\(\d{{3}}\)\ ?\d{{3}}-\d{{4}}(?!\w))
    | (?P<hex>(?<!\w)[0-9A-Fa-f]{{24,}}(?!\w))
    | (?P<ipv6>(?<![\w:.])(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:(?:\d{{1,3}}\.){{3}}\d{{1,3}}|[0-9A-Fa-f]{{1,4}})?(?![\w:]))
    | (?P<ipv4>(?<![\d.])(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?!\d|\.\d))
    | (?P<host>(?<![\w-])ip-(?:\d{{1,3}}-){{3}}\d{{1,3}}(?![\w-]))
    | (?<=://)(?P<login>[^\s/@:]+)(?=(?::[^\s/@]*)?@)
    | (?:(?<=[\\/]Users[\\/])|(?<=[\\/]home[\\/])|(?<=[\\/]Documents\ and\ Settings[\\/]))
      (?P<home>[^\\/:*?"<>|\r\n]+(?=[\\/])|[^\s\\/:*?"<>|']+)
    | (?<=(?<![\\\w:])\\\\)(?P<server>[\w.-]+)(?=\\)
    | (?P<account>(?<![\\\w:/.-])(?!HK)[\w-]{{2,15}}(?:\.[\w-]+)*\\[\w.$'-]*[\w$](?![\\\w]))
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DOMAIN = re.compile(r"(?<![\w.\\@-])(?:[\w-]+\.)+(?P<last>[A-Za-z]{2,24})(?![\w-]|\.\w)")
_FILES = """
app appx asp aspx bak bat bin bmp bz2 cab cer cfg chm class cmd conf config cpl csv dat db dll dmg dmp doc docm docx drv
dylib eml etl evt evtx exe gif gz hta htm html ico img inf ini iso jar jpeg jpg js jse json key ko lnk lock log lua
manifest md mof mp3 mp4 msg msi msp msu node ocx odt one ost otf pak pdb pdf pem php pif pkg plist png ppt pptm pptx ps1
psd psm1 pst py pyc pyd rar reg rpm rs rtf scr service sh so sql svg swf sys tar tgz tif tmp tsv ttf txt url vb vbe vbs
vhd vhdx vmdk wim wsf xlam xls xlsb xlsm xlsx xml xz yaml yml zip zst
"""
FILES = frozenset(_FILES.split())
"""File endings. A text with one is not a domain."""
_WORD = re.compile(r"[^\W_]+")
_BETWEEN = re.compile(r"(?<=[^\W_])[\W_]{1,2}(?=[^\W_])")
LONGEST_WORD = 6
"""An identifier of unknown form and at least this length is searched in other texts too."""
SHORTEST = 3
"""A shorter name is replaced only if it is a whole field."""


class Names:
    """The names of machines, people, domains and tenants that were read, to find them in other texts."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self._first: dict[str, list[str]] = {}
        self._forms: dict[str, re.Pattern[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Add a name. Its first kind stays, except that a domain can become a host."""
        name = _lower(plain(name.strip()))
        word = _WORD.search(name)
        if name.casefold() in NOBODY or len(name) < SHORTEST or word is None:
            return
        if name in self._kinds:
            if kind == "host":  # A name before a backslash counted as a domain.
                self._kinds[name] = kind
            return
        self._kinds[name] = kind
        starts = self._first.setdefault(word[0], [])
        starts.append(name)
        starts.sort(key=len, reverse=True)

    def kind(self, name: str) -> str | None:
        """The kind of a name; None for an unknown name."""
        return self._kinds.get(_lower(plain(name.strip())))

    def occurrences(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and kind of each name in the text; of several names at one place, the longest."""
        lower, done = _lower(text), 0
        for word in _WORD.finditer(lower):
            for name in self._first.get(word[0], ()) if word.start() >= done else ():
                start = word.start() - name.index(word[0])
                end = self._end(name, lower, start) if start >= done else start
                if end > start and not _goes_on(lower, start, end):
                    yield start, end, self._kinds[name]
                    done = end
                    break

    def _end(self, name: str, text: str, start: int) -> int:
        """The end of the name at the start; the start if it is not there. Other characters can be between its words."""
        if text.startswith(name, start):
            return start + len(name)
        parts = _BETWEEN.split(name)
        if len(parts) == 1:
            return start
        if name not in self._forms:
            self._forms[name] = re.compile(r"[\W_]{1,2}".join(map(re.escape, parts)))
        match = self._forms[name].match(text, start)
        return start if match is None else match.end()


def _lower(text: str) -> str:
    """The text in lower case with the same length. Letters whose lower-case form has two letters stay."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(a if len(a.lower()) > 1 else a.lower() for a in text)


def _goes_on(text: str, start: int, end: int) -> bool:
    return (start > 0 and _is_word(text[start - 1])) or (end < len(text) and _is_word(text[end]))


def _is_word(letter: str) -> bool:
    return letter.isalnum()


Change = Callable[[str, tuple[str, ...]], str | None]
"""Returns the new value of a text with a path of keys; None: it stays. The path of a key itself ends with ""."""


def rewritten(raw: bytes, text: Change, number: Change) -> bytes:
    """A JSON value on one line with changed strings and numbers. Everything else keeps its bytes."""
    source = raw.decode("utf-8", "surrogateescape")
    writing = _Writing(text, number)
    changed = _TOKEN.sub(lambda match: writing.take(match[0]), source)
    return changed.encode("utf-8", "surrogateescape").replace(b"\r", b" ").replace(b"\n", b" ")


class _Writing:
    """Follows the path of keys through the tokens of a JSON value."""

    def __init__(self, text: Change, number: Change) -> None:
        self._text = text
        self._number = number
        self._keys: list[str] = []
        """For every open container, the key of the next value; in a list, the list's own key."""
        self._objects: list[bool] = []
        self._awaits_key = False

    def take(self, part: str) -> str:
        """The replacement of a token."""
        if part[0] == '"':
            return self._string(part)
        if part not in "{[]},:":
            return self._number(part, tuple(self._keys)) or part
        if part in "{[":
            self._keys.append("" if part == "{" or not self._keys else self._keys[-1])
            self._objects.append(part == "{")
        elif part in "]}" and self._objects:
            self._keys.pop()
            self._objects.pop()
        self._awaits_key = part in "{," and bool(self._objects) and self._objects[-1]
        return part

    def _string(self, part: str) -> str:
        value = _loaded(part)
        path = (*self._keys[:-1], "") if self._awaits_key else tuple(self._keys)
        if self._awaits_key:
            self._keys[-1] = value
        changed = self._text(value, path)
        return part if changed is None or changed == value else _dumped(changed)


def _loaded(token: str) -> str:
    try:
        return str(json.loads(token, strict=False))
    except (ValueError, RecursionError):
        return token[1:-1]


def _dumped(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)


class Reader:
    """The first pass: collects names and addresses, and replaces nothing."""

    def __init__(self) -> None:
        self.names = Names()
        self.addresses: set[str] = set()
        self.words: set[str] = set()
        """The words of values that stay; they are not names."""

    def tenant(self, tenant: SophosTenant) -> None:
        """Collect a tenant's name."""
        self.names.add("tenant", tenant.name)

    def read(self, raw: bytes) -> None:
        """Collect the names and addresses of an item."""
        rewritten(raw, self._text, lambda _, __: None)

    def _text(self, value: str, path: tuple[str, ...]) -> None:
        key = _key_of(path)
        if is_kept(value, key) or not key:
            self.words.update(re.findall(r"\w+", value.lower()), _WORD.findall(value.lower()))
        if is_kept(value, key):
            return
        if key in HOSTS:
            self._host(value)
        elif key in USERS:
            self._source(value)
        met = list(map(self._met, _FOUND.finditer(plain(value))))
        for *_, content in unpacked(value):
            met += map(self._met, _FOUND.finditer(content))
        if not met and key and _names_id(key) and len(value) >= LONGEST_WORD:
            self.names.add("id", value)

    def _met(self, match: re.Match[str]) -> None:
        text = match[0]
        match match.lastgroup:
            case "ipv4":
                self.addresses.add(text)
            case "home" | "login":
                self.names.add("user", text)
            case "server":
                self._host(text)
            case "account":
                self._source(text)
            case "email":
                self.names.add("user", text.rpartition("@")[0])
                self.names.add("domain", text.rpartition("@")[2])

    def _host(self, text: str) -> None:
        if not is_address(text.strip()):
            self.names.add("host", text)
            self.names.add("host", text.partition(".")[0])

    def _source(self, text: str) -> None:
        domain, slash, user = text.rpartition("\\")
        if "@" not in user:
            self.names.add("user", user)
            first, *rest = user.split() or [""]
            if rest and "," not in user:  # In a text, the last name can stand first.
                self.names.add("user", f"{rest[-1]}, {' '.join((first, *rest[:-1]))}")
        if slash:
            self.names.add("domain", domain)


class Replacer:
    """The second pass: replaces all collected names with pseudonyms."""

    def __init__(self, pseudonyms: Pseudonyms, names: Names) -> None:
        self._give = pseudonyms
        self._names = names

    def item(self, raw: bytes) -> bytes:
        """The item with pseudonyms, on one line."""
        return rewritten(raw, self._value, self._number)

    def _value(self, value: str, path: tuple[str, ...]) -> str | None:
        key = _key_of(path)
        if is_kept(value, key) or value.strip().casefold() in NOBODY:
            return None
        if key in HOSTS:
            return self._whole(value, self._give.host)
        if key in USERS:
            return self._source(value)
        return self._packed(value, key) or self._free(value, key)

    def _packed(self, value: str, key: str) -> str | None:
        """The replacement of a UUID in one of the two other forms in alerts; None for any other value."""
        if key == "javaUUID" and re.fullmatch(_UUID, value):
            made = swapped(self._give.uuid(swapped(value)))
        elif key == "data" and _BASE64.fullmatch(value):
            digits = self._give.uuid(base64.b64decode(value).hex())
            made = base64.b64encode(bytes.fromhex(digits)).decode()
        else:
            return None
        self._give.originals["id"].add(value)
        return made

    def _free(self, value: str, key: str) -> str:
        changed = self.text(value)
        return self._give.id(value) if changed == value and _names_id(key) else changed

    def _number(self, written: str, path: tuple[str, ...]) -> str | None:
        if NUMBERS_OF & {*path[:-1]} or (path and _names_id(path[-1])):
            return self._give.id(written.lstrip("-"))
        return None

    def _whole(self, value: str, give: Callable[[str], str]) -> str:
        """The replacement of a field that is one name; white space around it stays."""
        name = value.strip()
        return value.replace(name, self.text(name) if is_address(name) else give(name))

    def _source(self, value: str) -> str:
        domain, slash, user = value.rpartition("\\")
        if "@" in user:
            return self.text(value)
        given = user if user.strip().casefold() in NOBODY else self._whole(user, self._give.user)
        return f"{self._realm(domain)}{slash}{given}"

    def _realm(self, domain: str) -> str:
        """The replacement of the part before a backslash: a domain, or the account's machine."""
        if domain.strip().casefold() in NOBODY:
            return domain
        return self._give.host(domain) if self._names.kind(domain) == "host" else self._give.domain(domain)

    def text(self, value: str) -> str:
        """The replacement of free text. If there is more or other to replace without its escapes, they are removed."""
        changed, count = self._replaced(value)
        bare = plain(value)
        if bare != value:
            without, more = self._replaced(bare)
            changed = without if more >= count and without != plain(changed) else changed
        return changed

    def _replaced(self, value: str) -> tuple[str, int]:
        """The text with pseudonyms for customers, then for values with a known form, domains and collected names."""
        pieces = [(value, False)]
        for find in (self._packed_texts, self._tenants, self._known_forms, self._domains, self._named):
            pieces = [part for piece in pieces for part in self._split(piece, find)]
        return "".join(text for text, _ in pieces), sum(is_done for _, is_done in pieces)

    def _packed_texts(self, text: str) -> Iterator[tuple[int, int, str]]:
        return repacked(text, self.text)

    def _tenants(self, text: str) -> Iterator[tuple[int, int, str]]:
        for start, end, kind in self._names.occurrences(text):
            if kind == "tenant":
                yield start, end, self._give.tenant(text[start:end])

    def _known_forms(self, text: str) -> Iterator[tuple[int, int, str]]:
        return ((match.start(), match.end(), self._formed(match)) for match in _FOUND.finditer(text))

    def _split(
        self, piece: tuple[str, bool], find: Callable[[str], Iterator[tuple[int, int, str]]]
    ) -> Iterator[tuple[str, bool]]:
        text, is_done = piece
        return iter([piece]) if is_done else _split(text, find(text))

    def _formed(self, match: re.Match[str]) -> str:
        text, give = match[0], self._give
        match match.lastgroup:
            case "home" | "login":
                return text if text.casefold() in NOBODY else give.user(text)
            case "account":
                return self._source(text)
            case "server":
                return give.host(text)
            case "ipv4" | "ipv6":
                return self._address(text)
        made: str = getattr(give, str(match.lastgroup))(text)
        return made

    def _address(self, text: str) -> str:
        if not is_address(text):
            return text
        return self._give.ipv6(text) if ":" in text else self._give.ipv4(text)

    def _named(self, text: str) -> Iterator[tuple[int, int, str]]:
        for start, end, kind in self._names.occurrences(text):
            yield start, end, getattr(self._give, kind)(text[start:end])

    def _domains(self, text: str) -> Iterator[tuple[int, int, str]]:
        for match in _DOMAIN.finditer(text):
            if match["last"].lower() not in FILES:
                # A login may look like a domain, and so does a machine's full name.
                give = getattr(self._give, self._names.kind(match[0]) or "domain")
                yield match.start(), match.end(), give(match[0])


def _split(text: str, spans: Iterator[tuple[int, int, str]]) -> Iterator[tuple[str, bool]]:
    """The text in pieces: unchanged text, and for each span its replacement, which is marked as done."""
    at = 0
    for start, end, replacement in spans:
        yield text[at:start], False
        yield replacement, True
        at = end
    yield text[at:], False


def _names_id(key: str) -> bool:
    return _IS_ID.search(key) is not None and _PROCESS.search(key) is None


def _key_of(path: tuple[str, ...]) -> str:
    """The key that tells what a value is: its own, or the one around it if its own says only that it is a name."""
    around = next((key for key in reversed(path[:-1]) if key), "")
    return around if path and path[-1] in _NAMES and around in USERS | HOSTS else path[-1] if path else ""


def is_kept(value: str, key: str) -> bool:
    """Whether a value stays because it is one of Sophos's own words, or a time."""
    return key in KEPT and _WORDS.fullmatch(value) is not None


def is_address(text: str) -> bool:
    """Whether the text is an IP address of a machine, not a version number or loopback."""
    try:
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or text == "255.255.255.255")


def swapped(text: str) -> str:
    """A UUID with the two digits of each byte swapped, as in `javaUUID`."""
    parts = text.split("-")
    return "-".join("".join(part[at : at + 2][::-1] for at in range(0, len(part), 2)) for part in parts)
