import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import redis

from services.local import ports, system, vault
from services.local.system import Plan
from services.settings import Settings
from tests.conftest import free_port
from tests.local.conftest import ROOT, eventually


def plan_with(folder: Path, **environ: str) -> Plan:
    return system.everything(Settings(data_dir=folder), environ)


def engine_env(plan: Plan) -> Mapping[str, str]:
    return plan.services[0].env


def test_key_and_cold_tier_lie_in_the_data_folder(tmp_path: Path) -> None:
    env = engine_env(plan_with(tmp_path))
    assert env["SHIORI_VAULT_KEY_FILE"] == f"{tmp_path}/vault.key"
    assert env["SHIORI_COLD_URL"] == f"file://{tmp_path}/cold"


def test_what_is_set_stays_set_and_no_cold_tier_stays_none(tmp_path: Path) -> None:
    env = engine_env(plan_with(tmp_path, SHIORI_VAULT_KEY="ab" * 32, SHIORI_COLD_URL=""))
    assert env["SHIORI_VAULT_KEY"] == "ab" * 32
    assert "SHIORI_VAULT_KEY_FILE" not in env
    assert env["SHIORI_COLD_URL"] == ""


def test_the_vaults_secrets_reach_the_engine_only(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, SHIORI_VAULT_KEY="ab" * 32, AWS_SECRET_ACCESS_KEY="hush")
    assert plan.store is not None
    assert engine_env(plan)["AWS_SECRET_ACCESS_KEY"] == "hush"
    for env in (plan.env, plan.store.env, *(spec.env for spec in plan.services[1:])):
        assert not {"hush", "ab" * 32} & set(env.values())


def test_a_taken_metrics_port_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.local.ports.is_free", lambda port, host="127.0.0.1": port != vault.METRICS_PORT)
    plan = plan_with(tmp_path)
    assert engine_env(plan)["SHIORI_METRICS_ADDRESS"] == plan.metrics != f"127.0.0.1:{vault.METRICS_PORT}"


@pytest.mark.parametrize(("durability", "fsync"), [("memory", "everysec"), ("disk", "always")])
def test_the_embedded_redis_keeps_everything_and_knows_its_limit(tmp_path: Path, durability: str, fsync: str) -> None:
    options = {"SHIORI_REDIS_MAX_MB": "100", "SHIORI_VAULT_DURABILITY": durability}
    decided = system.decide(Settings(data_dir=tmp_path), os.environ | options)
    spec = system.redis_spec(decided)
    process = subprocess.Popen(spec.command, stdout=subprocess.DEVNULL)
    try:
        assert spec.port is not None and eventually(lambda: ports.redis_ready(spec.port or 0))
        told = redis.Redis(port=spec.port, decode_responses=True).config_get("*")
    finally:
        process.kill()
        process.wait()
    assert (told["maxmemory"], told["maxmemory-policy"]) == (str(100 * 2**20), "noeviction")
    assert (told["appendonly"], told["appendfsync"]) == ("yes", fsync)


def test_redis_may_hold_half_of_the_memory() -> None:
    assert vault.redis_max_mb({}) == vault.memory_bytes() // 2 // 2**20


def test_a_limit_that_makes_no_sense_is_said_at_the_start(tmp_path: Path) -> None:
    env = {**os.environ, "SHIORI_REDIS_MAX_MB": "8G", "SHIORI_DATA_DIR": str(tmp_path), "SHIORI_PORT": str(free_port())}
    command = [sys.executable, "-m", "services.local", "run"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "CANNOT START: SHIORI_REDIS_MAX_MB=8G: a whole number of megabytes from 64 on is needed" in done.stdout
    assert "Traceback" not in done.stderr
