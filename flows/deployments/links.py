"""Where else a run can be looked at, as Markdown for Prefect's page of it."""

from collections.abc import Mapping
from typing import Any

from flows.runs.run_folder import RunFolder


def text(folder: RunFolder) -> str:
    """Link to what is known of a run by now."""
    lines = [f"# {folder.name}", ""]
    for place, copy in folder.notes().get("mlflow", {}).items():
        lines += _mlflow(place, copy)
    report = folder.path / "report" / "report.html"
    lines += [
        f"- Folder: `{folder.path.absolute()}`",
        f"- Report: [{report.name}]({report.absolute().as_uri()})"
        if report.exists()
        else f"- Report: `fedx report {folder.name}` writes it",
        f"- Go on after a stop: retry this flow run, or `fedx resume {folder.name}`",
    ]
    return "\n".join(lines)


def _mlflow(place: str, copy: Mapping[str, Any]) -> list[str]:
    if not copy.get("page"):
        return []
    shown = "" if place.startswith(("http://", "https://")) else (
        f", once `mlflow server --backend-store-uri {place}` runs"
    )  # fmt: skip
    return [f"- MLflow: [this run]({copy['page']}), [charts]({copy['charts']}){shown}"]
