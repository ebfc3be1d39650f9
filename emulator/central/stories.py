"""Stories on a generated device: each is one event, or several related ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

Fields = dict[str, Any]

FAMILIES = {
    "threats": ("MALWARE", "PUA", "RUNTIME_DETECTIONS", "BLOCKLISTED", "APP_REPUTATION", "MDR"),
    "web_control": ("WEB",),
    "data_control": ("DATA_LOSS_PREVENTION", "PERIPHERALS", "DENC"),
    "endpoint_protection": ("PROTECTION", "POLICY", "APPLICATION_CONTROL", "ISOLATION"),
    "system": ("UPDATING", "CONNECTIVITY", "AD_SYNC", "SECURITY"),
}
"""The `group` values of each family."""

_THREATS = (
    "Mal/Generic-S",
    "Mal/Generic-R",
    "Troj/Example-A",
    "ML/PE-A",
    "EICAR-AV-Test",
    "Mal/EncPk-AB",
    "Troj/DocDl-XY",
)
_PUAS = ("Generic Reputation PUA", "PsExec", "Example Bundler", "Example Coin Miner")
_FILES = ("setup.exe", "rechnung_märz.pdf.exe", "updater.exe", "invoice-4711.xlsm", "freetool.msi", "見積書.scr")
_APPS = (
    ("Example Remote Desktop", "Remote management tool"),
    ("Example P2P", "File sharing application"),
    ("Example Chat", "Instant messaging"),
    ("Example Game", "Games"),
)
_PAGES = (
    ("shop.example.com", "Shopping"),
    ("news.example.com", "News"),
    ("bet.example.net", "Gambling"),
    ("stream.example.org", "Video and audio streaming"),
    ("social.example.com", "Social networks"),
)
_PERIPHERALS = ("Example USB Stick 3.0", "SD Card Reader", "Généric Caméra HD <1080p> & Mic", "Example Phone")
_POLICIES = ("Tamper Protection", "Threat Protection", "Device Encryption", "Update Management")
_RULES = ("Multimedia file", "Credit or debit card numbers [Global] - 1", "Source code", "Financial data")


@dataclass(frozen=True, slots=True)
class Device:
    """A generated computer or server."""

    id: str
    host: str
    type: str
    platform: str
    ip: str
    user: str
    person: str
    user_id: str | None

    def path(self, folder: str, name: str) -> str:
        """The path of a file of its user."""
        login = self.user.rpartition("\\")[2]
        return f"/Users/{login}/{folder}/{name}" if self.platform == "mac" else f"C:\\Users\\{login}\\{folder}\\{name}"


Story = Callable[[Random, Device], Iterator[Fields]]


def hex_digits(random: Random, count: int) -> str:
    """Random lower-case hexadecimal digits."""
    return f"{random.getrandbits(count * 4):0{count}x}"


def outside(random: Random) -> str:
    """An address of the documentation networks."""
    return f"{random.choice(('198.51.100', '203.0.113'))}.{random.randrange(1, 255)}"


def _fact(type_: str, group: str, severity: str, name: str, **more: object) -> Fields:
    type_ = type_ if type_.startswith("Event::") else f"Event::Endpoint::{type_}"
    return {"type": type_, "group": group, "severity": severity, "name": name, **more}


def _remedy(random: Random, path: str, *, done: bool) -> Fields:
    file = {
        "type": "file",
        "result": "DELETED" if done else "FAILED_TO_DELETE",
        "suspendResult": "NOT_APPLICABLE",
        "descriptor": path,
        "processPath": "",
        "sophosPid": "",
    }
    key = {
        "type": "regkey",
        "result": "SUCCESS" if done else "NOT_FOUND",
        "suspendResult": "NOT_APPLICABLE",
        "descriptor": "HKCU\\Software\\Microsoft\\Windows\\CurrentVersion\\Run\\upd",
        "processPath": "",
        "sophosPid": "",
    }
    pid = random.randrange(400, 30_000)
    process = {
        "type": "process",
        "result": "SUCCESS",
        "suspendResult": "SUCCESS",
        "descriptor": str(pid),
        "processPath": path,
        "sophosPid": f"{pid}:{random.randrange(10**17, 10**18)}",
    }
    items = [file, key, process][: random.choice((1, 2, 3, 3))]
    return {"totalItems": len(items), "items": items}


def _signed(random: Random) -> list[Fields]:
    return [{"signer": "Example Tools Ltd", "thumbprint": hex_digits(random, 64)}]


def malware(random: Random, device: Device) -> Iterator[Fields]:
    """A file is found, and cleaned up or not."""
    threat = random.choice(_THREATS)
    path = device.path(random.choice(("Downloads", "AppData\\Local\\Temp")), random.choice(_FILES))
    event: Fields = {
        "threat": threat,
        "origin": random.choice(("ML", "SAV", "REP_MALWARE_DETECTION", "VDL_MALWARE_DETECTION")),
        "appSha256": hex_digits(random, 64),
    }
    text = f"'{threat}' at '{path}'"
    modern = random.random() < 0.8
    detected = "CoreDetection" if modern else "Threat::Detected"
    yield _fact(detected, "MALWARE", "medium", f"Malware detected: {text}", **event, appCerts=_signed(random))
    done = random.random() < 0.85
    event["core_remedy_items"] = _remedy(random, path, done=done)
    if done:
        cleaned = "CoreClean" if modern else "Threat::CleanedUp"
        yield _fact(cleaned, "MALWARE", "low", f"Malware cleaned up: {text}", **event)
    else:
        failed = "CoreCleanFailed" if modern else "Threat::CleanupFailed"
        manual = "Manual malware cleanup required" if modern else "Manual cleanup required"
        yield _fact(failed, "MALWARE", "high", f"{manual}: {text}", **event)


def unwanted_application(random: Random, device: Device) -> Iterator[Fields]:
    """A potentially unwanted application is found and cleaned up."""
    threat, path = random.choice(_PUAS), device.path("Downloads", random.choice(_FILES))
    event = {"threat": threat, "origin": "ML_PUA_DETECTION", "appSha256": hex_digits(random, 64)}
    text = f"'{threat}' at '{path}'"
    yield _fact("CorePuaDetection", "PUA", "medium", f"PUA detected: {text}", **event, appCerts=_signed(random))
    remedy = _remedy(random, path, done=True)
    yield _fact("CorePuaClean", "PUA", "low", f"PUA cleaned up: {text}", **event, core_remedy_items=remedy)


def intrusion(random: Random, device: Device) -> Iterator[Fields]:
    """Malicious traffic from outside is blocked."""
    remote, port = outside(random), str(random.randrange(1024, 65536))
    support = f"{random.randrange(10**9, 10**10)}.{random.randrange(10**7, 10**8)}.{random.randrange(1, 9)}"
    raw = (
        "Message       OS-WINDOWS Microsoft Windows SMB remote code execution attempt\nReference     CVE-2017-0146\n"
        f"Packet type   TCP\nLocal IP:     {device.ip}\nLocal Port:   445\nLocal MAC:    00-00-5E-00-53-11\n"
        f"Remote IP:    {remote}\nRemote Port:  {port}\nRemote MAC:   00-00-5E-00-53-66"
    )
    data = {
        "techSupportId": support,
        "detectionType": 0,
        "executableName": "",
        "remoteIp": remote,
        "remotePort": port,
        "localPort": "445",
        "rawData": raw,
    }
    name = f"Malicious inbound network traffic blocked from remote computer at {remote} (Technical Support reference: {support})"  # noqa: E501
    yield _fact(
        "Threat::IpsInboundDetection",
        "RUNTIME_DETECTIONS",
        "low",
        name,
        threat="IPS/Inbound/7777001",
        ips_threat_data=data,
    )


def command_and_control(random: Random, device: Device) -> Iterator[Fields]:
    """A program contacts a command-and-control server."""
    path, support = device.path("AppData\\Roaming", "svc.exe"), f"{random.randrange(10**9, 10**10)}.512377.2"
    name = f"Malicious connection detected: 'C2/Generic-A' at '{path}' (Technical Support reference: {support})"
    yield _fact(
        "Threat::CommandAndControlDetected",
        "MALWARE",
        "high",
        name,
        threat="C2/Generic-A",
        appSha256=hex_digits(random, 64),
    )


def exploit(random: Random, _: Device) -> Iterator[Fields]:
    """An exploit or ransomware is stopped."""
    if random.random() < 0.3:
        name = "Ransomware attack detected: 'CryptoGuard' in C:\\Users\\Public\\enc.exe"
        yield _fact(
            "HmpaCryptoGuard", "RUNTIME_DETECTIONS", "high", name, threat="CryptoGuard", origin="HMPA_DETECTION"
        )
    else:
        name = "'CodeCave' exploit prevented in Example Reader"
        yield _fact(
            "HmpaExploitPrevented",
            "RUNTIME_DETECTIONS",
            "low",
            name,
            threat="CodeCave",
            origin="HMPA_DETECTION",
            appSha256=hex_digits(random, 64),
        )


def script(random: Random, device: Device) -> Iterator[Fields]:
    """A malicious script is blocked."""
    data = {
        "processName": "powershell.exe",
        "processId": str(random.randrange(400, 30_000)),
        "processPath": "C:\\Windows\\System32\\WindowsPowerShell\\v1.0\\powershell.exe",
        "parentProcessId": str(random.randrange(400, 30_000)),
        "parentProcessPath": device.path("Downloads", "setup.exe"),
    }
    yield _fact(
        "CoreAmsiBlocked",
        "MALWARE",
        "medium",
        "Malicious script blocked: 'AMSI/Example-B'",
        threat="AMSI/Example-B",
        origin="AMSI_DETECTION",
        amsi_threat_data=data,
    )


def reputation(random: Random, device: Device) -> Iterator[Fields]:
    """A download or a program with a low reputation."""
    path = device.path("Downloads", random.choice(_FILES))
    if random.random() < 0.5:
        yield _fact(
            "DownloadReputationUserBlocked", "APP_REPUTATION", "low", f"User deleted low reputation download: '{path}'"
        )
    else:
        remedy = _remedy(random, path, done=True)
        yield _fact(
            "CoreBlocklistClean",
            "BLOCKLISTED",
            "low",
            "Blocked item cleaned up: 'tool-x.exe'",
            origin="BLOCKLISTED",
            appSha256=hex_digits(random, 64),
            core_remedy_items=remedy,
        )


def case(random: Random, _: Device) -> Iterator[Fields]:
    """The managed service opens a case."""
    number = f"1-{random.randrange(10**5, 10**6)}"
    yield _fact("EDR.DarkBytes::CaseCreated", "MDR", "medium", f"Case {number} created")


def browsing(random: Random, _: Device) -> Iterator[Fields]:
    """A page is blocked, or the user ignores a warning."""
    host, category = random.choice(_PAGES)
    trail = "&".join(
        f"{name}={hex_digits(random, 48)}" for name in ("session", "click", "ref", "utm_id")[: random.randrange(1, 5)]
    )
    url = f"https://{host}/{random.choice(('c', 'watch', 'item', 'a'))}/{random.randrange(10**6)}?{trail}"
    if random.random() < 0.7:
        yield _fact("WebControlViolation", "WEB", "low", f"'{url}' blocked due to category '{category}'")
    else:
        yield _fact("WebControlViolation", "WEB", "low", f"'{url}' warned due to category '{category}'")
        yield _fact("WebControlViolation", "WEB", "low", f"User bypassed category block to '{url}'")


def malicious_site(random: Random, _: Device) -> Iterator[Fields]:
    """A site that carries malware is blocked."""
    host = f"cdn-{hex_digits(random, 6)}.phish.example.net"
    name = f'Access was blocked to "{host}" because of "Mal/JSInject-AC".'
    yield _fact("WebFilteringBlocked", "WEB", "low", name, threat="Mal/JSInject-AC", appSha256=hex_digits(random, 64))


def file_transfer(random: Random, device: Device) -> Iterator[Fields]:
    """A data control rule applies to a transfer."""
    allowed = random.random() < 0.6
    action, type_ = ("allow", "Allowed") if allowed else ("block", "Blocked")
    rule, copied = random.choice(_RULES), random.random() < 0.5
    parts = [
        f"An ″{action} file transfer″ action was taken.",
        f"Username: {device.user}",
        f"Rule names: ′{rule}′",
        f"User action: File {'copy' if copied else 'open'}",
        f"Application Name: {'Explorer' if copied else 'Firefox'}",
        f"Data Control action: {action.capitalize()}",
        "File type: Media container (TFT∕MPEG-4)",
        f"File size: {random.randrange(10**4, 10**8)}",
        f"Source path: {device.path('Documents', f'Q{random.randrange(1, 5)} Übersicht.xlsx')}",
    ]
    if copied:
        parts += [
            f"Destination path: E:\\transfer\\{random.randrange(1000)}.xlsx",
            "Destination type: Removable storage",
        ]
    yield _fact(f"DataLossPreventionAutomatically{type_}", "DATA_LOSS_PREVENTION", "low", "  ".join(parts))


def peripheral(random: Random, _: Device) -> Iterator[Fields]:
    """A device is plugged in."""
    type_, text = random.choice(
        (("Blocked", "blocked"), ("AlertedOnly", "allowed"), ("ReadOnly", "restricted to read-only"))
    )
    yield _fact(f"Device::{type_}", "PERIPHERALS", "low", f"Peripheral {text}: {random.choice(_PERIPHERALS)}")


def encryption(random: Random, device: Device) -> Iterator[Fields]:
    """A disk's encryption changes."""
    if random.random() < 0.4:
        yield _fact("Enc::DiskNotEncryptedEvent", "DENC", "medium", "Device is not encrypted.")
    else:
        name = f"A BitLocker recovery key has been received from: {device.host}."
        yield _fact("Enc::Recovery::KeyReceived", "DENC", "low", name)


def scan(random: Random, _: Device) -> Iterator[Fields]:
    """A scan ends."""
    name = random.choice(("Sophos Cloud Scheduled Scan", "Scan my computer"))
    yield _fact("SavScanComplete", "PROTECTION", "low", f"Scan '{name}' completed")


def registration(_: Random, device: Device) -> Iterator[Fields]:
    """A device joins."""
    yield _fact("Registered", "PROTECTION", "low", f"New {device.type} registered: {device.host}")
    yield _fact("UserAutoCreated", "PROTECTION", "low", f"New user added automatically: {device.user}")
    yield _fact("Protected", "PROTECTION", "low", f"New {device.type} protected: {device.host}")


def protection_off(random: Random, _: Device) -> Iterator[Fields]:
    """Protection stops and comes back."""
    if random.random() < 0.5:
        yield _fact("SavDisabled", "PROTECTION", "high", "Real time protection disabled")
        yield _fact("SavEnabled", "PROTECTION", "low", "Real time protection re-enabled")
    else:
        yield _fact(
            "ServiceNotRunning", "PROTECTION", "medium", "One or more Sophos services are missing or not running"
        )
        yield _fact("ServiceRestored", "PROTECTION", "low", "All Sophos services are running")


def compliance(random: Random, _: Device) -> Iterator[Fields]:
    """A policy is broken and kept again."""
    policy = random.choice(_POLICIES)
    yield _fact("NonCompliant", "POLICY", "medium", f"Policy non-compliance: {policy}")
    yield _fact("Compliant", "POLICY", "low", f"Policy in compliance: {policy}")


def application(random: Random, _: Device) -> Iterator[Fields]:
    """A controlled application is started."""
    app, category = random.choice(_APPS)
    type_ = random.choice(("Blocked", "Blocked", "Allowed"))
    name = f"Controlled application {type_.lower()}: {app} ({category})"
    yield _fact(
        f"Application::{type_}",
        "APPLICATION_CONTROL",
        "low",
        name,
        appSha256=hex_digits(random, 64),
        appCerts=_signed(random),
    )


def isolation(_: Random, __: Device) -> Iterator[Fields]:
    """An administrator takes a device off the network."""
    yield _fact("Isolation::Isolated", "ISOLATION", "medium", "Device isolated by an administrator")
    yield _fact("Isolation::UnIsolated", "ISOLATION", "low", "Device removed from isolation by an administrator")


def update(random: Random, _: Device) -> Iterator[Fields]:
    """An update works, fails or wants a restart."""
    draw = random.random()
    if draw < 0.7:
        yield _fact("UpdateSuccess", "UPDATING", "low", "Update succeeded")
    elif draw < 0.85:
        name = "Reboot to complete update; computer stays protected in the meantime"
        yield _fact("UpdateRebootRequired", "UPDATING", "low", name)
    elif draw < 0.95:
        name = "Download of WindowsCloudServer failed from server http:∕∕updates.example.com."
        yield _fact("UpdateFailure", "UPDATING", "low", name)
    else:
        yield _fact("OutOfDate", "UPDATING", "medium", "Computer is out of date")


def firewall(random: Random, _: Device) -> Iterator[Fields]:
    """A firewall is lost and found."""
    name = f"Firewall has not contacted Sophos Central for the past {random.randrange(5, 900)} minutes"
    yield _fact("Event::Firewall::LostConnectionToSophosCentral", "CONNECTIVITY", "high", name)
    yield _fact("Event::Firewall::Reconnected", "CONNECTIVITY", "low", "Firewall has reconnected to Sophos Central")


def directory(random: Random, _: Device) -> Iterator[Fields]:
    """The directory is synchronised."""
    name = f"Active Directory synchronization succeeded: {random.randrange(9)} users, 2 groups, {random.randrange(40)} devices"  # noqa: E501
    yield _fact("Event::ADSync::Success", "AD_SYNC", "low", name)


STORIES: dict[Story, int] = {
    malware: 18,
    unwanted_application: 8,
    intrusion: 10,
    command_and_control: 2,
    exploit: 3,
    script: 5,
    reputation: 6,
    case: 1,
    browsing: 22,
    malicious_site: 6,
    file_transfer: 24,
    peripheral: 4,
    encryption: 2,
    scan: 4,
    registration: 1,
    protection_off: 2,
    compliance: 2,
    application: 10,
    isolation: 1,
    update: 8,
    firewall: 1,
    directory: 1,
}
"""The stories with their weights."""
