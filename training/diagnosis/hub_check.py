"""Looking at the Hub: whether the token may write where the run wants to publish."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from sd_pipeline.publishing.hub_push import check_target
from sd_pipeline.publishing.hub_retry import reason
from training.config import HubConfig
from training.diagnosis.finding import Finding, Level

_SUBJECT = "Hub"
_LOG_IN = "log in with `hf auth login`, with a token that may write"


def check_permission(hub: HubConfig, endpoint: str | None = None) -> list[Finding]:
    """Ask the Hub who we are and what we may do. Nothing is written there.

    Args:
        hub (`HubConfig`): Where the run publishes, if it does.
        endpoint (`str`, *optional*): Address of the Hub; by default that of `huggingface_hub`.
    """
    if not hub.push_to_hub:
        return []
    repo_id = str(hub.hub_model_id)
    try:
        check_target(repo_id)
    except ValueError as error:
        return [Finding(Level.ERROR, _SUBJECT, str(error), _LOG_IN)]
    api = HfApi(endpoint=endpoint, token=get_token())
    try:
        problem = _problem_of_account(api.whoami(), repo_id) or _problem_of_repository(api, repo_id, hub)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            return [Finding(Level.ERROR, _SUBJECT, reason(error), _LOG_IN)]
        return [_unreachable(error)]
    except Exception as error:
        return [_unreachable(error)]
    return [problem or Finding(Level.FINE, _SUBJECT, f"the token may write to {repo_id}")]


def _problem_of_account(account: dict[str, Any], repo_id: str) -> Finding | None:
    owner = repo_id.split("/")[0]
    names = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
    if owner not in names:
        found = f"{account['name']} is no member of {owner}"
        return Finding(Level.ERROR, _SUBJECT, found, f"set hub.hub_model_id to a name of {' or '.join(names)}")
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        return Finding(Level.ERROR, _SUBJECT, "the token may only read", _LOG_IN)
    return None


def _problem_of_repository(api: HfApi, repo_id: str, hub: HubConfig) -> Finding | None:
    try:
        api.auth_check(repo_id, write=True)
    except RepositoryNotFoundError:
        return None  # It will be made.
    if hub.hub_private_repo and not api.model_info(repo_id).private:
        found = f"{repo_id} is public, and hub.hub_private_repo is true"
        return Finding(Level.ERROR, _SUBJECT, found, "make it private on the Hub, or take another hub.hub_model_id")
    return None


def _unreachable(error: Exception) -> Finding:
    mend = "nothing, if it comes back: until then the push waits in output_dir"
    return Finding(Level.WARNING, _SUBJECT, f"it cannot be asked now: {reason(error)}", mend)
