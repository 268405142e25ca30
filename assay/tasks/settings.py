"""Settings that must be in place before Prefect, MLflow, DVC or the hub's library are imported, or torch compiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def importable(project: Path) -> None:
    """Lets modules in the project's folder be imported, after all that is installed."""
    folder = str(project.resolve())
    if folder not in sys.path:
        sys.path.append(folder)


def apply(project: Path) -> None:
    """Keeps all state in the project's `.assay/` and telemetry off; what the user set stays."""
    importable(project)
    home = project.resolve() / ".assay"
    downloads = Path(os.environ.get("ASSAY_DOWNLOADS") or home / "downloads").resolve()
    defaults = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # errors show in its pages; the command says them once
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "compiled"),  # else below /tmp, where others may write
    }
    if "HF_HOME" not in os.environ:  # whoever keeps the hub's files in a place of his own keeps them there
        hub = {"HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "datasets", "HF_XET_CACHE": "xet"}
        defaults.update({name: str(downloads / "huggingface" / folder) for name, folder in hub.items()})
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
