"""Where a project's MLflow is and what its models are called there; nothing here imports it."""

from __future__ import annotations

import logging
import os
import re
import socket
import urllib.parse
from pathlib import Path


def tracking_uri(project: Path) -> str:
    """MLFLOW_TRACKING_URI, or the project's own sqlite database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(project / '.assay' / 'mlflow.db').resolve()}"


def artifact_root(project: Path) -> str:
    """Where the runs of a local database keep their files."""
    return str((project / ".assay" / "mlartifacts").resolve())


def local_database(uri: str) -> Path | None:
    """The file of an sqlite URI; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def without_password(uri: str) -> str:
    """A URI as it may be shown."""
    parts = urllib.parse.urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    user, _, secret = parts.netloc.rpartition("@")[0].partition(":")
    shown = f"{user}:***" if secret else "***"
    return parts._replace(netloc=f"{shown}@{parts.netloc.rpartition('@')[2]}").geturl()


def answers(uri: str) -> bool:
    """Whether a tracking server can be reached; a local database always can."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return True
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=3):
            return True
    except OSError:
        return False


def experiment_name(project: Path) -> str:
    """MLflow's experiment of a project: its folder's name."""
    return re.sub(r"[^\w.-]", "-", project.resolve().name) or "assay"


def registered_name(project: Path, variant: str) -> str:
    """The registered model of a variant."""
    return f"{experiment_name(project)}-{variant}"


def hide(text: str, uri: str) -> str:
    """A text without the secrets that MLflow's address and environment hold."""
    netloc = uri.partition("://")[2].partition("/")[0]
    secrets = [netloc.rpartition("@")[0].partition(":")[2], netloc.rpartition("@")[0]]
    secrets += [os.environ.get(name, "") for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def quiet() -> None:
    """What MLflow would say to a person who calls it, nobody hears here; and it gives up sooner."""
    defaults = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)
