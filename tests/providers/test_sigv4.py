"""AWS's signatures: against the published test suite of Signature Version 4, and against AWS's own library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.providers.bedrock.sigv4 import Credentials, Signer

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwth"
    "Ax7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAk"
    "iY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
MOMENT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)


# Source: AWS Signature Version 4 Test Suite.
@pytest.mark.parametrize(
    ("method", "body", "headers", "token", "signed", "signature"),
    [
        ("GET", b"", {}, "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", b"", {}, "", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "POST",
            b"",
            {"my-header1": "value1"},
            "",
            "host;my-header1;x-amz-date",
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        ),
        (
            "GET",
            b"",
            {"my-header1": " value1", "my-header2": '"a   b   c"'},
            "",
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "POST",
            b"Param1=value1",
            {"content-type": "application/x-www-form-urlencoded"},
            "",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            "POST",
            b"",
            {},
            TOKEN,
            "host;x-amz-date;x-amz-security-token",
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        ),
    ],
)
def test_the_published_vectors_hold(
    method: str, body: bytes, headers: dict[str, str], token: str, signed: str, signature: str
) -> None:
    signer = Signer(Credentials("AKIDEXAMPLE", SECRET, token), "us-east-1", "service", lambda: MOMENT)
    added = signer.sign(method, "https://example.amazonaws.com/", body, headers)
    assert added["x-amz-date"] == "20150830T123600Z"
    assert added.get("x-amz-security-token", "") == token
    assert added["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={signed}, Signature={signature}"
    )


def test_the_key_of_a_day_ends_with_the_day() -> None:
    moments = iter([MOMENT, MOMENT + timedelta(days=1), MOMENT])
    signer = Signer(Credentials("AKIDEXAMPLE", SECRET), "us-east-1", "service", lambda: next(moments))
    first, second, third = (signer.sign("POST", "https://example.amazonaws.com/", b"", {}) for _ in range(3))
    assert first == third
    assert second["authorization"] != first["authorization"]
    assert "/20150831/" in second["authorization"]


def test_a_secret_shows_nowhere() -> None:
    credentials = Credentials("AKIDEXAMPLE", SECRET, TOKEN)
    signer = Signer(credentials, "us-east-1", "service", lambda: MOMENT)
    assert SECRET not in f"{credentials!r}{signer!r}{signer.sign('POST', 'https://example.com/', b'', {})}"
    assert TOKEN not in f"{credentials!r}{signer!r}"


MODELS = st.text(st.sampled_from("abcXYZ019.-_:/%~ ä"), min_size=1, max_size=30).filter(lambda name: name.strip("."))


@settings(deadline=None, max_examples=50)
@given(
    model=MODELS, body=st.binary(max_size=50), token=st.sampled_from(["", TOKEN]), port=st.sampled_from(["", ":9000"])
)
def test_botocore_signs_alike(model: str, body: bytes, token: str, port: str) -> None:
    auth: Any = pytest.importorskip("botocore.auth")
    request: Any = pytest.importorskip("botocore.awsrequest")
    known: Any = pytest.importorskip("botocore.credentials")
    from urllib.parse import quote

    url = f"https://bedrock-runtime.us-east-1.amazonaws.com{port}/model/{quote(model, safe='-._~')}/converse"
    theirs = request.AWSRequest("POST", url, headers={"Content-Type": "application/json"}, data=body)
    theirs.context["timestamp"] = "20150830T123600Z"
    signer = auth.SigV4Auth(known.Credentials("AKIDEXAMPLE", SECRET, token or None), "bedrock", "us-east-1")
    theirs.headers["X-Amz-Date"] = theirs.context["timestamp"]
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    text = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    signature = signer.signature(text, theirs)
    ours = Signer(Credentials("AKIDEXAMPLE", SECRET, token), "us-east-1", "bedrock", lambda: MOMENT)
    added = ours.sign("POST", url, body, {"content-type": "application/json"})
    assert added["authorization"].endswith(f"Signature={signature}")
