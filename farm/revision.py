"""What is under test, from the environment of the usual CI systems and from git."""

from __future__ import annotations

import os
import subprocess

from farm.record import Purpose, Revision

_COMMIT = ("FARM_REVISION", "GITHUB_SHA", "CI_COMMIT_SHA", "BUILD_SOURCEVERSION", "GIT_COMMIT")
_BRANCH = ("FARM_BRANCH", "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "GIT_BRANCH")
_EVENT = ("GITHUB_EVENT_NAME", "CI_PIPELINE_SOURCE")
_PURPOSE_OF_EVENT = {
    "pull_request": Purpose.PULL_REQUEST,
    "merge_request_event": Purpose.PULL_REQUEST,
    "schedule": Purpose.NIGHTLY,
    "release": Purpose.RELEASE,
}


def detect_revision() -> Revision:
    """Commit, parent, branch and purpose; empty where nothing tells.

    `FARM_REVISION`, `FARM_BRANCH` and `FARM_PURPOSE` override what is found.
    """
    commit = _first(_COMMIT) or _git("rev-parse", "HEAD")
    purpose = os.environ.get("FARM_PURPOSE", "")
    return Revision(
        commit=commit,
        parent=_git("rev-parse", f"{commit}^") if commit else "",
        branch=_first(_BRANCH) or _git("branch", "--show-current"),
        purpose=Purpose(purpose)
        if purpose in list(Purpose)
        else _PURPOSE_OF_EVENT.get(_first(_EVENT), Purpose.AD_HOC),
    )


def _first(names: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ("git", *arguments), capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
