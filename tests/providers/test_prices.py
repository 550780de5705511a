"""What calls cost, held to the price list itself as the oracle, and the file of prices of one's own."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dspex.errors import UsageError
from dspex.lm.model import LM
from dspex.lm.types import Price, Usage
from dspex.providers import open_model
from dspex.providers.prices import is_private, list_price

GOOGLE = "https://generativelanguage.googleapis.com/v1beta"
ANTHROPIC = "https://api.anthropic.com"
OPENAI = "https://api.openai.com/v1"

LISTED = [
    (GOOGLE, "gemini-2.5-pro"),
    (GOOGLE, "gemini-2.5-flash-lite"),
    (ANTHROPIC, "claude-sonnet-4-5"),
    (OPENAI, "gpt-4.1-mini"),
    ("https://bedrock-runtime.us-east-1.amazonaws.com", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("https://openrouter.ai/api/v1", "google/gemini-2.5-pro"),
]


@pytest.fixture(autouse=True)
def no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSPEX_PRICES", raising=False)


@given(st.sampled_from(LISTED), st.integers(0, 400_000), st.integers(0, 100_000), st.data())
def test_costs_are_those_of_the_list(where: tuple[str, str], prompt: int, output: int, data: st.DataObject) -> None:
    base_url, model = where
    price = list_price(base_url, model)
    assert price is not None
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached)) if price.written is not None else 0
    listed = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=prompt, output_tokens=output, cache_read_tokens=cached, cache_write_tokens=written
        ),
        model,
        provider_api_url=base_url,
    )
    cost = price.cost(Usage(prompt, output, cached, 0, written))
    assert cost == pytest.approx(float(listed.total_price), rel=1e-9)
    assert cost <= price.ceiling(prompt, output) * (1 + 1e-12)


def test_a_long_prompt_is_charged_wholly_at_the_higher_price() -> None:
    price = Price(1.0, 2.0, above=((100, Price(3.0, 4.0, cached=0.5)), (200, Price(5.0, 6.0))))
    assert price.cost(Usage(100, 10)) == pytest.approx(120e-6)
    assert price.cost(Usage(101, 10)) == pytest.approx(343e-6)
    assert price.cost(Usage(200, 10, cached_tokens=100)) == pytest.approx(390e-6)
    assert price.cost(Usage(201, 10)) == pytest.approx(1065e-6)


def test_no_call_earns_money_whatever_a_server_counts() -> None:
    price = Price(2.0, 10.0, cached=0.2, written=2.5)
    assert price.cost(Usage(10, 0, 50)) == pytest.approx(10e-6)
    assert price.cost(Usage(10, 0, 0, 0, 50)) == pytest.approx(125e-6)


PRICES = st.builds(
    Price,
    st.floats(0, 100),
    st.floats(0, 100),
    st.none() | st.floats(0, 100),
    st.none() | st.floats(0, 100),
    st.lists(st.integers(1, 1000), unique=True, max_size=2).flatmap(
        lambda starts: st.tuples(
            *(st.tuples(st.just(s), st.builds(Price, st.floats(0, 9), st.floats(0, 9))) for s in sorted(starts))
        )
    ),
)


@given(PRICES, st.integers(0, 2000), st.integers(0, 2000), st.data())
def test_no_call_costs_more_than_the_ceiling(price: Price, most: int, output: int, data: st.DataObject) -> None:
    prompt = data.draw(st.integers(0, most))
    cached = data.draw(st.integers(0, prompt))
    usage = Usage(prompt, output, cached, 0, data.draw(st.integers(0, prompt - cached)))
    assert price.cost(usage) <= price.ceiling(most, output) * (1 + 1e-12)


@given(PRICES)
def test_a_price_survives_being_stored(price: Price) -> None:
    assert pickle.loads(pickle.dumps(price)) == price
    assert TypeAdapter(Price).validate_python(asdict(price)) == price
    assert TypeAdapter(Price).validate_json(TypeAdapter(Price).dump_json(price)) == price


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["input", "output", "cached", "written"])
def test_a_price_is_a_finite_number(field: str, bad: float) -> None:
    with pytest.raises(UsageError, match=f"DX8136.*{field}"):
        replace(Price(1.0, 1.0), **{field: bad})


@pytest.mark.parametrize("starts", [(0,), (-5,), (7, 7), (9, 3)])
def test_tiers_ascend(starts: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="DX8136"):
        Price(1.0, 1.0, above=tuple((start, Price(1.0, 1.0)) for start in starts))


@pytest.mark.parametrize(
    ("base_url", "model"),
    [
        (GOOGLE, "no-such-model"),
        ("https://unknown.example/v1", "gpt-4.1-mini"),
        ("http://127.0.0.1:9000/v1", "gpt-4.1-mini"),
        ("http://llm:9000/v1", "gpt-4.1-mini"),
        ("http://[::1]:9000/v1", "gpt-4.1-mini"),
        ("https://api.perplexity.ai", "sonar"),  # charges for each request as well
    ],
)
def test_what_is_not_known_has_no_price(base_url: str, model: str) -> None:
    assert list_price(base_url, model) is None


def test_a_model_without_output_costs_its_input() -> None:
    price = list_price(GOOGLE, "gemini-embedding-001")
    assert price is not None
    assert price.input > 0
    assert price.output == 0


def test_hosts_of_ones_own_network() -> None:
    assert all(map(is_private, ["localhost", "127.0.0.1", "10.1.2.3", "::1", "gpu7", "192.168.0.4"]))
    assert not any(map(is_private, ["8.8.8.8", "ollama.com", "2606:4700::1111"]))


# ----------------------------------------------------------------- the file


def write(file: Path, text: str, version: int = 1) -> None:
    file.write_text(text, encoding="utf-8")
    os.utime(file, ns=(version, version))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSPEX_PRICES", str(tmp_path / "prices.toml"))
    return tmp_path / "prices.toml"


def test_the_file_goes_before_the_list(file: Path) -> None:
    write(
        file,
        """
        ["gemini-2.5-pro"]
        input = 1
        output = 2.5
        cached = 0.125
        written = 1.5
        above = [{ tokens = 200_000, input = 4, output = 8 }, { tokens = 400_000, input = 5, output = 9 }]

        ["127.0.0.1:9000/meta/llama"]
        input = 0.5
        output = 0.75

        ["meta/llama"]
        input = 9
        output = 9
        """,
    )
    own = Price(1, 2.5, 0.125, 1.5, above=((200_000, Price(4, 8)), (400_000, Price(5, 9))))
    assert list_price(GOOGLE, "gemini-2.5-pro") == own
    assert list_price("http://127.0.0.1:9000/v1", "meta/llama") == Price(0.5, 0.75)
    assert list_price("http://me:secret@127.0.0.1:9000/v1", "meta/llama") == Price(0.5, 0.75)
    assert list_price("http://127.0.0.1:9001/v1", "meta/llama") == Price(9, 9)
    other = list_price(OPENAI, "gpt-4.1-mini")
    assert other is not None
    assert other.input > 0
    model = open_model(LM("openai/meta/llama", base_url="http://127.0.0.1:9000/v1"))
    assert model.price == Price(0.5, 0.75)
    model = open_model(LM("openai/meta/llama", base_url="http://127.0.0.1:9000/v1", price=Price(1, 1)))
    assert model.price == Price(1, 1)


def test_a_file_that_changes_is_read_again(file: Path) -> None:
    write(file, "[m]\ninput = 1\noutput = 1\n", 1)
    assert list_price(OPENAI, "m") == Price(1, 1)
    write(file, "[m]\ninput = 2\noutput = 2\n", 2)
    assert list_price(OPENAI, "m") == Price(2, 2)


def test_the_file_is_found_from_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dspex]\nprices = "own/prices.toml"\n', encoding="utf-8")
    (tmp_path / "own").mkdir()
    (tmp_path / "below").mkdir()
    write(tmp_path / "own" / "prices.toml", "[m]\ninput = 1\noutput = 1\n")
    monkeypatch.chdir(tmp_path / "below")
    assert list_price(OPENAI, "m") == Price(1, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[m", "not TOML"),
        ("m = 3", "'m' 3, which is no table"),
        ("[m]\ninput = 1\n", "no input or no output"),
        ("[m]\ninput = 1\noutput = 1\nrequest = 2\n", "unknown key 'request'"),
        ("[m]\ninput = '1'\noutput = 1\n", "input = '1', which is no number"),
        ("[m]\ninput = true\noutput = 1\n", "input = True, which is no number"),
        ("[m]\ninput = -1\noutput = 1\n", "cannot be.*input=-1"),
        ("[m]\ninput = inf\noutput = 1\n", "cannot be"),
        ("[m]\ninput = 1\noutput = 1\nabove = 3\n", "no list"),
        ("[m]\ninput = 1\noutput = 1\nabove = [3]\n", "without tokens"),
        ("[m]\ninput = 1\noutput = 1\nabove = [{ tokens = 5, input = 1 }]\n", "m above 5 tokens.*no output"),
        (
            "[m]\ninput = 1\noutput = 1\nabove = [{tokens=5, input=1, output=1}, {tokens=4, input=1, output=1}]\n",
            "ascending",
        ),
    ],
)
def test_a_file_that_is_not_sound_is_refused(file: Path, text: str, words: str) -> None:
    write(file, text)
    with pytest.raises(UsageError, match=f"DX8135.*{words}") as caught:
        list_price(OPENAI, "m")
    assert caught.value.where == str(file)


def test_a_file_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(UsageError, match=r"DX8135.*cannot be read"):
        list_price(OPENAI, "m")


def test_bytes_that_are_no_text_are_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="DX8135"):
        list_price(OPENAI, "m")
