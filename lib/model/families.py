"""Families of event types as the documentation names them: one table, type by type.

The types are those of Sophos's list (https://support.sophos.com, KB-000038309), with names of newer ones that are seen
in production (`Core…`). Their families follow the groups of Sophos's events
(https://developer.sophos.com/siem-api-schemas):

- threat: MALWARE, PUA, RUNTIME_DETECTIONS, BLOCKLISTED, APP_REPUTATION
- web control: WEB
- data control: DATA_LOSS_PREVENTION, PERIPHERALS, DENC
- endpoint protection: PROTECTION, POLICY, APPLICATION_CONTROL, ISOLATION, ENDPOINT_FIREWALL
- system: UPDATING, CONNECTIVITY, AD_SYNC, SECURITY, and a firewall's own state

A type that is not in the table gets the family that its name suggests. Sophos excludes types by exact name only. So a
family in `exclude_types` stands for the types of the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

PREFIX = "family:"
"""The prefix of a family's name in a list of types."""
NEEDED = frozenset({"Event::Task::RenewApiToken"})
"""Types that a family's name does not exclude, because this connector uses them. Their own names exclude them."""
URL_SAFE = ":,"
"""Characters of type names and lists that a query may hold unencoded (RFC 3986, section 3.4)."""
LONGEST = 5800
"""Bytes that excluded names may take in a URL. Common gateways refuse request lines over 8 KB."""

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
{IntensiveScanStarted,IntensiveScanPartComplete}
Home{CookiesDeleted,CookiesDetected,PuaRemnantsDeleted,PuaRemnantsDetected,ThreatRemnantsDeleted}
Home{ThreatRemnantsDetected}
Event::EDR.{DarkBytes::CaseCreated}
Event::UAV::{Requested,Responded,TimedOut,PotentiallyCompromisedDevice}
Event::{SpamOrVirus::Alert,OutboundMalwareProtection::EndpointScan,OutboundMalwareProtection::BlockedSender}
Event::Smc::{MitmAttackEvent}
DownloadReputation{AutoAuthorised,AutoBlocked,UserAuthorised,UserBlocked}
"""
_WEB_CONTROL = """
{WebControlViolation,WebFilteringBlocked,Smc::WebFiltering}
"""
_DATA_CONTROL = """
DataLossPrevention{AutomaticallyAllowed,AutomaticallyBlocked,UserAllowed,UserBlocked}
Device::{AlertedOnly,Blocked,ReadOnly}
Denc::{EncryptionSuspendedEvent,OutlookPluginEnabledEvent,OutlookPluginDisabledEvent}
Denc::{PostponedAuthenticationResetEvent}
Enc::{DiskEncryptionFailed,DiskEncryptionInformation,DiskEncryptionStatusChanged,DiskNotEncryptedEvent}
Enc::{RecoveryKeyMissingEvent,Recovery::KeyCreationFailed,Recovery::KeyReceived,Recovery::KeyRevoked}
Fenc::{UserKeyringSyncedEvent}
Event::Xgemail::{DlpViolationEvent,DlpRuleDisableEvent}
"""
_ENDPOINT_PROTECTION = """
{Registered,Reprotected,Protected,NotProtected,UserAutoCreated,Deduplicated,CloneDetected,Compliant,NonCompliant}
Sav{Enabled,Disabled,Error,ScanComplete,FastScanComplete,SmartScanStarted,SmartScanComplete,SmartScanAborted}
{ServiceNotRunning,ServiceRestored,HeartbeatMissing,HeartbeatRestored,Isolation::Isolated,Isolation::UnIsolated}
{Management::Suspended,Management::Resumed,FileIntegrityMonitoring::Suspend,FileIntegrityMonitoring::Resume}
{WindowsFirewall::Blocked,AppChange,UnsupportedOperatingSystem,VirtualisationCertificateRenewal}
Application::{Blocked,Allowed,Detected}
Mobile::{EasDataMissing,Added,Enrolled,EnrolledNewApp,NowNonCompliant,NowCompliant,UnenrolledByUser,Unenrolled}
Mobile::{PlaceholderMissing,Action::Cancelled,Action::Skipped,Action::Failed,Action::Succeeded}
Smc::{RenewInstalledCertificate,DeviceTemThresholdExceeded,Uem::EnrollmentFailed}
Home{StartStarted,StartFinished,StartCancelled,EndpointUninstalled}
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
Event::Firewall::{ReportingLicenseHADisable,ReportingGracePeriodStart,RenewalWithLesserQuantity}
Event::Firewall::{ReportingGracePeriodExtension,ReportingGracePeriodExpired,ReportingXgsLicenseExpired}
Event::Firewall::{ReportingXgsLicenseNotification}
Event::Iaas::{Log,IaasError,BucketError}
Event::IaasAzure::{AzureLog,AzureError}
Event::Mobile::{ApnsCertificateExpired,ApnsCertificateRenewed,ApnsCertificateRevoked,UserEmailMissing}
Event::Smc::{MigrationActionsCancelled,MigrationCancelled,MigrationFailed,MigrationPreventedByAdminEmail}
Event::Smc::{MigrationStarted,MigrationSucceeded,SynchronizationFailed,AfwNotEnrolled}
Event::Smc::{AfwUnapprovedAppUsedInOtherObjectEvent,AfwClientConnectionError,AfwRequiredAppNotApproved}
Event::Smc::{DepRequiresAcceptingTermsOfUse,RenewSmcLicense,RenewAppleDepToken,RenewAppleVpp,RenewKnoxLicense}
Event::Smc::{RenewInstalledCertificate}
Event::Wireless::AccessPoint::{BadHealth,NotBroadcast,Offline,CommandDone,ConfigurationFailed,DnsTimeout}
Event::Wireless::AccessPoint::{Firmware::UpdateStarted,Firmware::UpdateSucceeded,Firmware::UpdateFailed}
Event::Wireless::AccessPoint::{HighDataPacketRetries,HighDataPacketRetriesGhz24,HighDataPacketRetriesGhz5}
Event::Wireless::AccessPoint::{HighDnsLatency,ChannelChangedReason,ChannelChanged,LowEthernetSpeed}
Event::Wireless::AccessPoint::{HighEthernetSpeed,RadiusInactive,RadiusActive,GatewayNotReachable}
Event::Wireless::AccessPoint::{GnatHotspotVlanInvalidConfiguration}
Event::Wireless::{Firmware::Global::UpdateStarted,Firmware::Global::UpdateSucceeded}
Event::Wireless::{Firmware::Global::UpdateFailed,SyncSecurity::WrongConfig}
Event::ZTNA::{ZTNAGatewayUnreachable,ZTNAApplicationUnreachable,ZTNAAuthenticationFailure}
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
_RULES = (
    ("web_control", re.compile(r"Event::.*(?:Web(?:Control|Filter)|UrlFilter)")),
    ("data_control", re.compile(r"Event::.*(?:DataLoss|Dlp|::Device::|::(?:Denc|Enc|Fenc)::|Peripheral)")),
    ("system", re.compile(r"Event::Endpoint::(?:Update|Updating|OutOfDate)")),
    (
        "threat",
        re.compile(
            r"Event::Endpoint::(?:Core|Hmpa|IntensiveScan|DownloadReputation)|Event::[EMNX]DR\b|Event::UAV::"
            r"|Event::.*(?:Threat|Malware|Cookies|Virus|Pua[A-Z]|Ransom|Attack|Exploit|Phish|Suspicious)"
        ),
    ),
    ("endpoint_protection", re.compile("Event::Endpoint::")),
    ("system", re.compile("Event::")),
)
"""For types outside the table: the first matching rule gives the family."""


def family_of(name: str) -> str | None:
    """The family of a type, from the table or from its name; None if the name has not the form of Sophos's types."""
    return _FAMILY_OF.get(name) or by_rule(name)


def by_rule(name: str) -> str | None:
    """The family that a type's name suggests."""
    return next((family for family, rule in _RULES if rule.match(name)), None)


def fault_of(name: str) -> str | None:
    """The fault of an entry of `exclude_types`; None if there is none."""
    if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in FAMILIES:
        families = ", ".join(PREFIX + family for family in FAMILIES)
        return f"is not a family; the families are: {families}"
    if "," in name or not name.strip():
        return "must be one type, such as Event::Endpoint::UpdateSuccess, or one family, such as family:web_control"
    return None


def expanded(names: Iterable[str]) -> tuple[str, ...]:
    """The types that the names of types and families stand for, without duplicates."""
    types: dict[str, None] = {}
    for name in names:
        family = FAMILIES[name.removeprefix(PREFIX)] - NEEDED if name.startswith(PREFIX) else (name,)
        types |= dict.fromkeys(sorted(family))
    return tuple(types)


def fitting(names: Sequence[str]) -> tuple[Sequence[str], frozenset[str]]:
    """The first names that fit into a URL (LONGEST bytes), and the names that do not fit."""
    used = 0
    for number, name in enumerate(names):
        used += len(quote(name, safe=URL_SAFE)) + 1
        if used > LONGEST:
            return names[:number], frozenset(names[number:])
    return names, frozenset()
