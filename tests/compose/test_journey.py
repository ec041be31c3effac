"""A reader's journey through docker-compose.yml on a real engine. Run by scripts/test_compose.sh."""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local import ports
from services.local.demo import sample_questions
from services.local.rest import Json, Rest

pytestmark = pytest.mark.compose
ROOT = Path(__file__).resolve().parents[2]
BOOK = next(path for path in (ROOT / "docs" / "samples").glob("*.md") if path.name != "README.md")
UP_SECONDS = 240


class Stack:
    """docker compose, on a project and a port of its own."""

    def __init__(self) -> None:
        self.port = ports.any_free()
        self.rest = Rest(f"http://127.0.0.1:{self.port}")
        self.command = [*shlex.split(os.environ["SHIORI_COMPOSE"]), "--env-file", os.environ["SHIORI_COMPOSE_ENV"]]
        self.env = {**os.environ, "COMPOSE_PROJECT_NAME": "shiori-test", "SHIORI_PORT": str(self.port)}

    def __call__(self, *arguments: str, check: bool = True, seconds: int = UP_SECONDS) -> str:
        done = subprocess.run(
            [*self.command, *arguments], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=seconds
        )
        assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        command = [*self.command, "ps", "--all"], [*self.command, "logs", "--tail", "25", "--no-color"]
        return "\n".join(
            subprocess.run(c, cwd=ROOT, env=self.env, capture_output=True, text=True).stdout for c in command
        )

    def container(self, service: str) -> str:
        return self("ps", "--quiet", service).strip()

    def wait(self, job_id: str, seconds: float = 600) -> Json:
        deadline = time.monotonic() + seconds
        while (job := self.rest.job(job_id, wait=10))["status"] not in ("succeeded", "failed", "cancelled"):
            assert time.monotonic() < deadline, f"{job}\n{self.logs()}"
        return job


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack()
    stack("down", "--volumes", "--remove-orphans", check=False)
    began = time.monotonic()
    stack("up", "--detach", "--wait", "--no-build", "--wait-timeout", str(UP_SECONDS))
    print(f"\nup and healthy in {time.monotonic() - began:.0f} s")
    yield stack
    stack("down", "--volumes", "--timeout", "20")


@pytest.fixture(scope="module")
def book(stack: Stack) -> Json:
    source = stack.rest.upload(BOOK)
    job = stack.wait(source["job_id"])
    assert job["status"] == "succeeded", f"{job}\n{stack.logs()}"
    return stack.rest.source(source)


def test_nothing_starts_without_passwords(stack: Stack) -> None:
    done = subprocess.run(
        [*shlex.split(os.environ["SHIORI_COMPOSE"]), "--env-file", "/dev/null", "config"],
        cwd=ROOT,
        env={k: v for k, v in stack.env.items() if "PASSWORD" not in k},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "make compose-env" in done.stderr


def test_nothing_starts_without_the_vaults_key(stack: Stack, tmp_path: Path) -> None:
    lines = Path(os.environ["SHIORI_COMPOSE_ENV"]).read_text().splitlines(keepends=True)
    (tmp_path / "env").write_text("".join(line for line in lines if "VAULT_KEY" not in line))
    done = subprocess.run(
        [*shlex.split(os.environ["SHIORI_COMPOSE"]), "--env-file", str(tmp_path / "env"), "config"],
        cwd=ROOT,
        env={k: v for k, v in stack.env.items() if "VAULT_KEY" not in k},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "SHIORI_VAULT_KEY" in done.stderr and "make compose-env" in done.stderr


def test_everything_is_ready_and_the_page_is_served(stack: Stack) -> None:
    ready = stack.rest.http.get("/readyz")
    assert ready.status_code == 200, ready.text
    assert "<html" in stack.rest.http.get("/").text


def test_containers_run_without_privileges(stack: Stack) -> None:
    for service in ("gateway", "worker-background", "inference"):
        told = stack("exec", "-T", service, "sh", "-c", "id -u; grep CapEff /proc/1/status; touch /app/x 2>&1 || true")
        uid, capabilities, touched = told.splitlines()
        assert uid == "10001"
        assert capabilities.split()[1].strip("0") == ""
        assert "Read-only" in touched


def test_stores_and_engine_have_no_way_out(stack: Stack) -> None:
    internal = docker("network", "inspect", "-f", "{{.Internal}}", "shiori-test_inside")
    assert internal == "true"
    for service in ("redis", "postgres", "inference"):
        names = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
        assert docker("inspect", "-f", names, stack.container(service)) == "shiori-test_inside"


def test_a_book_is_read_and_a_killed_engine_reads_it_no_second_time(stack: Stack, book: Json) -> None:
    assert book["status"] == "ready" and book["tokens"] > 1000
    question = sample_questions()[0]
    before = stack.rest.ask(stack.rest.session(book), question)
    assert before["status"] == "succeeded"
    docker("kill", stack.container("inference"))
    stack("start", "inference")
    after = stack.rest.ask(stack.rest.session(book), question)
    assert after["usage"]["resumed_tokens"] >= book["tokens"] > after["usage"]["read_tokens"]
    assert (after["answer"], after["quotes"]) == (before["answer"], before["quotes"])


def test_a_stack_that_was_down_answers_from_the_saved_reading(stack: Stack, book: Json) -> None:
    question = sample_questions()[0]
    stack("down", "--timeout", "20")
    stack("up", "--detach", "--wait", "--no-build", "--wait-timeout", str(UP_SECONDS))
    after = stack.rest.ask(stack.rest.session(book), question)
    assert after["usage"]["resumed_tokens"] >= book["tokens"] > after["usage"]["read_tokens"]


# ---- the vault -------------------------------------------------------------------------------------------------------


def test_redis_knows_its_limit_and_evicts_nothing(stack: Stack) -> None:
    ask = 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli --raw config get "maxmemory*"'
    told = stack("exec", "-T", "redis", "sh", "-c", ask).split()
    assert told[told.index("maxmemory-policy") + 1] == "noeviction"
    assert int(told[told.index("maxmemory") + 1]) > 0


def test_metrics_are_told_inside_the_network_only(stack: Stack, book: Json) -> None:
    scrape = "import urllib.request as u; print(u.urlopen('http://inference:9464/metrics', timeout=5).read().decode())"
    told = stack("exec", "-T", "gateway", "python", "-c", scrape)
    assert "shiori_vault_saved_bytes_total" in told
    assert docker("port", stack.container("inference")) == ""


def test_a_redis_that_lost_everything_costs_no_reading(stack: Stack, book: Json) -> None:
    """The cold tier, the master key and the database are the backup."""
    question = sample_questions()[0]
    before = stack.rest.ask(stack.rest.session(book), question)
    assert "to the cold tier" in stack("exec", "-T", "gateway", "shiori", "vault", "tier-down")
    stack("down", "--timeout", "20")
    docker("volume", "rm", "shiori-test_vault")
    stack("up", "--detach", "--wait", "--no-build", "--wait-timeout", str(UP_SECONDS))
    assert "sessions recovered" in stack("exec", "-T", "gateway", "shiori", "vault", "recover")
    after = stack.rest.ask(stack.rest.session(book), question)
    assert after["usage"]["resumed_tokens"] >= book["tokens"] > after["usage"]["read_tokens"]
    assert (after["answer"], after["quotes"]) == (before["answer"], before["quotes"])
