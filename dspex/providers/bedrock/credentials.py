"""Where an AWS region and AWS credentials come from: the environment and the shared config files.

The files are those that AWS's tools write, ``~/.aws/credentials`` and ``~/.aws/config``, or what
``AWS_SHARED_CREDENTIALS_FILE`` and ``AWS_CONFIG_FILE`` name; of them the profile ``AWS_PROFILE`` or else ``default``
counts. Profiles that sign in elsewhere first (SSO, roles, processes) are not followed: ``api_key=`` may be a function
that asks AWS's own library.

Source: AWS SDKs and Tools Reference Guide, "Shared config and credentials files".
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from dspex.errors import UsageError
from dspex.providers.bedrock.sigv4 import Credentials

_ELSEWHERE = ("sso_session", "sso_start_url", "role_arn", "credential_process", "web_identity_token_file")


def aws_region() -> str:
    """The region that the environment or the profile names.

    Raises:
        UsageError: DX8130, none does; DX8132, a config file cannot be read.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _profile().get("region", "")
    if not region:
        raise UsageError(
            "DX8130",
            "no AWS region is known",
            fix="set AWS_REGION, or name the region's server: base_url='https://bedrock-runtime.REGION.amazonaws.com'",
        )
    return region.strip()


def aws_credentials() -> Credentials:
    """The credentials of the environment, else those of the profile.

    Raises:
        UsageError: DX8131, there are none; DX8132, a config file cannot be read.
    """
    found = _credentials(
        {
            name: os.environ.get(name.upper(), "")
            for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        }
    )
    if found is not None:
        return found
    profile = _profile()
    found = _credentials(profile)
    if found is not None:
        return found
    ways = [name for name in _ELSEWHERE if name in profile]
    name = repr(_profile_name())
    why = f"the profile {name} gets them by {ways[0]}, which is not followed" if ways else f"nor has the profile {name}"
    raise UsageError(
        "DX8131",
        f"Bedrock needs a key or AWS credentials; the environment has none, {why}",
        fix="set AWS_BEARER_TOKEN_BEDROCK, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
        "(`aws configure export-credentials --format env` prints them), or give api_key=",
    )


def credentials_in(key: str) -> Credentials | None:
    """The credentials that a key of the form ``ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]`` is; None for another.

    Raises:
        UsageError: DX8133, a part is missing.
    """
    if ":" not in key:
        return None
    access_key, _, rest = key.partition(":")
    secret_key, _, token = rest.partition(":")
    if not access_key or not secret_key:
        raise UsageError(
            "DX8133", "api_key= with a colon is ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN], and a part is missing"
        )
    return Credentials(access_key, secret_key, token)


def _credentials(fields: Mapping[str, str]) -> Credentials | None:
    access_key = fields.get("aws_access_key_id", "").strip()
    secret_key = fields.get("aws_secret_access_key", "").strip()
    if not access_key or not secret_key:
        return None
    return Credentials(access_key, secret_key, fields.get("aws_session_token", "").strip())


def _profile_name() -> str:
    return os.environ.get("AWS_PROFILE") or "default"


def _profile() -> Mapping[str, str]:
    """What both files say of the profile; the credentials file goes first."""
    name = _profile_name()
    section = name if name == "default" else f"profile {name}"
    config = _section(Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser(), section)
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    return {**config, **_section(Path(credentials).expanduser(), name)}


def _section(path: Path, name: str) -> Mapping[str, str]:
    # Values of any character are literal, and a default section has no meaning of its own.
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # The file's text is left out: it holds secrets.
        raise UsageError(
            "DX8132",
            f"AWS's config file cannot be read: {type(error).__name__}",
            where=str(path),
            fix="correct the file, or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
        ) from None
    return dict(parser[name]) if parser.has_section(name) else {}
