"""Settings that must be in place before Prefect, MLflow or DVC are imported, or torch compiles."""

from __future__ import annotations

import os
from pathlib import Path


def apply(project: Path) -> None:
    """Keeps all state in the project's `.assay/` and telemetry off; what the user set stays."""
    home = project.resolve() / ".assay"
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
        "GIT_PYTHON_REFRESH": "quiet",
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "compiled"),  # else below /tmp, where others may write
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
