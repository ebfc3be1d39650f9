"""What a new Google Cloud project makes of a resource: its computed arguments, and what it refuses for a while.

Time passes in `wait` alone. A resource that comes before what it needs has settled is refused, as Google Cloud does.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

PROJECT = "my-soc-project"
NUMBER = "123456789012"

METRIC_SETTLES = 600
"""Seconds until Cloud Monitoring knows a metric of Cloud Logging ("it could take up to 10 minutes")."""
BINDING_SETTLES = 120
"""Seconds until a permission is there: typically two minutes, says IAM's documentation."""

APIS = {
    "google_cloud_scheduler_job": "cloudscheduler",
    "google_cloud_tasks_queue": "cloudtasks",
    "google_cloudfunctions2_function": "cloudfunctions",
    "google_eventarc_trigger": "eventarc",
    "google_logging_metric": "logging",
    "google_monitoring_alert_policy": "monitoring",
    "google_monitoring_dashboard": "monitoring",
    "google_monitoring_notification_channel": "monitoring",
    "google_pubsub_topic": "pubsub",
    "google_secret_manager_secret": "secretmanager",
    "google_service_account": "iam",
    "google_storage_bucket": "storage",
}
NAMES = {
    "google_service_account": ("account_id", r"[a-z]([-a-z0-9]{4,28}[a-z0-9])"),
    "google_storage_bucket": ("name", r"[a-z0-9][-a-z0-9_.]{1,61}[a-z0-9]"),
    "google_cloudfunctions2_function": ("name", r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"),
    "google_secret_manager_secret": ("secret_id", r"[A-Za-z0-9_-]{1,255}"),
}
"""Which names are taken."""
IDS = {
    "google_cloud_tasks_queue": "projects/{project}/locations/{location}/queues/{name}",
    "google_cloudfunctions2_function": "projects/{project}/locations/{location}/functions/{name}",
    "google_eventarc_trigger": "projects/{project}/locations/{location}/triggers/{name}",
    "google_monitoring_dashboard": "projects/123456789012/dashboards/8f4b4a1e",
    "google_pubsub_topic": "projects/{project}/topics/{name}",
    "google_secret_manager_secret": "projects/{project}/secrets/{secret_id}",
    "google_secret_manager_secret_version": "{secret}/versions/1",
    "google_service_account": "projects/{project}/serviceAccounts/{email}",
    "google_storage_bucket": "{name}",
}


class RefusedError(Exception):
    """The cloud refuses a resource."""


class Cloud:
    """One project, new."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: list[tuple[str, Mapping[str, Any], int]] = []
        self._seconds = 0
        self.has_eventarc_agent = True
        """Whether `gcloud beta services identity create` has been called for Eventarc."""

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self._seconds += seconds

    def resource(self, kind: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that the cloud adds to a new resource; RefusedError where it is too early for it."""
        self._check(kind, wanted)
        with self._lock:
            self._made.append((kind, dict(wanted), self._seconds))
        added = {"project": wanted.get("project") or PROJECT}
        if kind == "google_service_account":
            email = f"{wanted['account_id']}@{PROJECT}.iam.gserviceaccount.com"
            name = f"projects/{PROJECT}/serviceAccounts/{email}"
            added |= {"email": email, "member": f"serviceAccount:{email}", "name": name}
        if kind == "google_secret_manager_secret_version":
            added |= {"version": "1"}
        text = IDS.get(kind, f"{kind}/{len(self._made)}")
        return {**added, "id": text.format_map({**wanted, **added})}

    @staticmethod
    def data(kind: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a data source."""
        if kind == "google_project":
            return {"id": f"projects/{PROJECT}", "number": NUMBER, "project_id": wanted.get("project_id") or PROJECT}
        email = f"service-{NUMBER}@gs-project-accounts.iam.gserviceaccount.com"
        return {"id": PROJECT, "project": PROJECT, "email_address": email, "member": f"serviceAccount:{email}"}

    def _check(self, kind: str, wanted: Mapping[str, Any]) -> None:
        if kind in APIS:
            service = f"{APIS[kind]}.googleapis.com"
            self._need(f"API {service}", "google_project_service", 0, service=service)
        if kind in NAMES:
            argument, form = NAMES[kind]
            if not re.fullmatch(form, wanted[argument]):
                raise RefusedError(f"{wanted[argument]!r} is no {argument}")
        if kind == "google_monitoring_alert_policy":
            for condition in wanted["conditions"]:
                self._check_condition(condition)
        if kind == "google_eventarc_trigger":
            if not self.has_eventarc_agent:
                raise RefusedError("permission denied while using the Eventarc Service Agent")
            member = f"serviceAccount:{wanted['service_account']}"
            found = {"member": member, "role": "roles/eventarc.eventReceiver"}
            self._need("the receiver's role", "google_project_iam_member", BINDING_SETTLES, **found)
        if kind == "google_cloudfunctions2_function":
            self._check_function(wanted)

    def _check_condition(self, condition: Mapping[str, Any]) -> None:
        for query in condition["condition_prometheus_query_language"]:
            if query["disable_metric_validation"]:
                return
        for name in set(re.findall(r"logging\.googleapis\.com/user/([\w/-]+)|user_(\w+)", str(condition))):
            self._need(f"metric {name}", "google_logging_metric", METRIC_SETTLES, name=max(name))

    def _check_function(self, wanted: Mapping[str, Any]) -> None:
        (service,) = wanted["service_config"]
        member = f"serviceAccount:{service['service_account_email']}"
        for volume in service["secret_volumes"]:
            secret = f"projects/{volume['project_id']}/secrets/{volume['secret']}"
            found = {"secret_id": secret, "member": member}
            self._need(f"access to {secret}", "google_secret_manager_secret_iam_member", BINDING_SETTLES, **found)
        (build,) = wanted["build_config"]
        builder = f"serviceAccount:{build['service_account'].rpartition('/')[2]}"
        for role in ("roles/logging.logWriter", "roles/artifactregistry.writer"):
            self._need(f"{role} of the build", "google_project_iam_member", BINDING_SETTLES, member=builder, role=role)

    def _need(self, what: str, kind: str, settles: int, **arguments: str) -> None:
        with self._lock:
            ages = [
                self._seconds - made
                for each, found, made in self._made
                if each == kind and all(found.get(name) == value for name, value in arguments.items())
            ]
        if not ages:
            raise RefusedError(f"{what} is not there")
        if max(ages) < settles:
            raise RefusedError(f"{what} is not there yet; it takes up to {settles} s")
