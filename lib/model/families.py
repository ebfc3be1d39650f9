"""Families of event types, as the product's documentation names them: one table, type by type.

The types are those of Sophos's list (https://support.sophos.com, KB-000038309), with names of newer ones that are seen
in production (`Core…`). Their families follow the groups that Sophos's events carry
(https://developer.sophos.com/siem-api-schemas): MALWARE, PUA, RUNTIME_DETECTIONS, BLOCKLISTED and APP_REPUTATION are
threats; WEB is web control; DATA_LOSS_PREVENTION, PERIPHERALS and DENC are data control; PROTECTION, POLICY,
APPLICATION_CONTROL, ISOLATION and ENDPOINT_FIREWALL are endpoint protection; UPDATING, CONNECTIVITY, AD_SYNC, SECURITY
and a firewall's own state are the system's. A type that is not in the table has no family: Sophos takes names only.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

PREFIX = "family:"
"""What begins a family's name among names of types."""
NEEDED = frozenset({"Event::Task::RenewApiToken"})
"""Types that a family's name does not leave out: they tell this connector something. Their own names do."""
LONGEST = 6000
"""Bytes that excluded names may have in a URL: request lines over 8 KB are refused by common gateways."""

_THREAT = """
Threat::{Detected,CleanedUp,CleanupFailed,Dismissed,PuaDetected,PuaCleanedUp,PuaCleanupFailed,PuaDismissed}
Threat::{HIPSDetected,HIPSCleanedUp,HIPSCleanupFailed,HIPSDismissed,CommandAndControlDetected}
Threat::{CommandAndControlDismissed,IpsInboundDetection,IpsOutboundDetection,LowRepAppDetected,LowRepAppCleanedUp}
Core{Detection,RemoteDetection,Clean,CleanFailed,CleanNothingFound,Reboot,Dismissed,Restore,RestoreFailed,Outbreak}
Core{OutbreakDismissed,BehavioralDetection,SystemClean,SystemCleanFailed}
Core{GenerateForensicSnapshot,GenerateForensicSnapshotFailed,UploadForensicSnapshot,UploadForensicSnapshotFailed}
CorePua{Detection,RemoteDetection,Clean,CleanFailed,CleanNothingFound,Reboot,Restore,RestoreFailed}
CoreHmpa{Clean,CleanFailed,CleanNothingFound,Reboot}
Core{AmsiBlocked,AmsiClean,AmsiCleanFailed,IpsClean,IpsCleanFailed}
Event::Firewall::{FirewallAdvancedThreatProtection}
CoreBlocklist{Clean,CleanFailed,Detection}
Hmpa{ExploitPrevented,BehaviourPrevented,ApplicationHijacking,CameraMic,CookiesDeleted,CookiesDetected}
Hmpa{CredGuard,CredGuardResolved,CryptoGuard,CryptoGuardResolved,PrivGuard,PrivGuardResolved}
Hmpa{CryptoGuardSMB,CryptoGuardSMBOrigin,CryptoGuardSMBResolved,MalwareDetected,MalwareCleanup,PuaDetected,PuaCleanup}
Hmpa{SafeBrowsing,ScanStarted,ScanCompleted,ScanClean,ScanReboot,Threat}
{IntensiveScanStarted,IntensiveScanPartComplete,EDR.DarkBytes::CaseCreated}
DownloadReputation{AutoAuthorised,AutoBlocked,UserAuthorised,UserBlocked}
"""
_WEB_CONTROL = """
{WebControlViolation,WebFilteringBlocked}
"""
_DATA_CONTROL = """
DataLossPrevention{AutomaticallyAllowed,AutomaticallyBlocked,UserAllowed,UserBlocked}
Device::{AlertedOnly,Blocked,ReadOnly}
Denc::{EncryptionSuspendedEvent,OutlookPluginEnabledEvent,OutlookPluginDisabledEvent}
Denc::{PostponedAuthenticationResetEvent}
Enc::{DiskEncryptionFailed,DiskEncryptionInformation,DiskEncryptionStatusChanged,DiskNotEncryptedEvent}
Enc::{RecoveryKeyMissingEvent,Recovery::KeyCreationFailed,Recovery::KeyReceived,Recovery::KeyRevoked}
Fenc::{UserKeyringSyncedEvent}
"""
_ENDPOINT_PROTECTION = """
{Registered,Reprotected,Protected,NotProtected,UserAutoCreated,Deduplicated,CloneDetected,Compliant,NonCompliant}
Sav{Enabled,Disabled,Error,ScanComplete,FastScanComplete,SmartScanStarted,SmartScanComplete,SmartScanAborted}
{ServiceNotRunning,ServiceRestored,HeartbeatMissing,HeartbeatRestored,Isolation::Isolated,Isolation::UnIsolated}
{Management::Suspended,Management::Resumed,FileIntegrityMonitoring::Suspend,FileIntegrityMonitoring::Resume}
{WindowsFirewall::Blocked,AppChange,UnsupportedOperatingSystem,VirtualisationCertificateRenewal}
Application::{Blocked,Allowed,Detected}
"""
_SYSTEM = """
{UpdateSuccess,UpdateFailure,UpdateRebootRequired,UpdateRebootUrgentlyRequired,OutOfDate}
Event::ADSync::{Success,Warning,Error,TooLargeError}
Event::{CWG::Registered,CWG::Reprotected,CSWITCH::CSwitchDisconnected,RateLimitAlert::Alert}
Event::Protection::{CustomerHeartbeatCertificateRenewalFailure}
Event::Firewall::{LostConnectionToSophosCentral,Reconnected,FirewallUnAuthorizedToSophosCentral,FirewallGatewayUp}
Event::Firewall::{FirewallGatewayDown,FirewallVPNTunnelUp,FirewallVPNTunnelDown,FirewallREDTunnelUp}
Event::Firewall::{FirewallREDTunnelDown,FirewallHAStateDegraded,FirewallHAStateRestored,FirewallHighCPUUsage}
Event::Firewall::{FirewallMaxCPUUsage,FirewallHighDiskUsage,FirewallHighMemoryUsage,FirewallMissingHeartbeat}
Event::Other::{FirewallSubscriptionExpiringSoon,FirewallSubscriptionAlmostExpired,FirewallSubscriptionExpired}
Event::Other::{RegisteredInCentral,DeregisteredFromSophosCentral,ManagementDisabled,WaitingForApproval}
Event::Other::{ZeroTouchCancelled,ManagementApprovalExpired,FirewallFirmwareUpdateInProgress}
Event::Other::{FirewallFirmwareUpdateSuccessfullyFinished,FirewallFirmwareUpdateFailed}
Event::Task::{RenewApiToken,RenewApnsCertificate,NoApnsCertificate,RenewLicense,SupportPortalOpen,ProtectEndpoints}
Event::Task::{SecurityIssue,MigrateUserDevicesToServers}
"""


def _types(text: str) -> frozenset[str]:
    names: set[str] = set()
    for line in text.split():
        start, _, rest = line.partition("{")
        start = start if start.startswith("Event::") else f"Event::Endpoint::{start}"
        names.update(start + end for end in rest.removesuffix("}").split(","))
    return frozenset(names)


FAMILIES = {
    "endpoint_protection": _types(_ENDPOINT_PROTECTION),
    "threat": _types(_THREAT),
    "data_control": _types(_DATA_CONTROL),
    "web_control": _types(_WEB_CONTROL),
    "system": _types(_SYSTEM),
}
_FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names}


def family_of(name: str) -> str | None:
    """The family of a type; None for one that the table does not name."""
    return _FAMILY_OF.get(name)


def fault_of(name: str) -> str | None:
    """What is wrong with an entry of `exclude_types`; None: nothing."""
    if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in FAMILIES:
        families = ", ".join(PREFIX + each for each in FAMILIES)
        return f"there is no such family; there are: {families}"
    if "," in name or not name.strip():
        return "has to be one type, such as Event::Endpoint::UpdateSuccess, or one family, such as family:web_control"
    return None


def expanded(names: Iterable[str]) -> tuple[str, ...]:
    """The types that names of types and of families stand for, each once."""
    found: dict[str, None] = {}
    for name in names:
        family = FAMILIES[name.removeprefix(PREFIX)] - NEEDED if name.startswith(PREFIX) else (name,)
        found |= dict.fromkeys(sorted(family))
    return tuple(found)


def length(names: Iterable[str]) -> int:
    """How many bytes a URL has for types that are left out."""
    return len(quote(",".join(names), safe=""))
