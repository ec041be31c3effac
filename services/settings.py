"""What the environment decides. One typed object per process, read once and handed on."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every option is an environment variable with the prefix SHIORI_, e.g. SHIORI_REDIS_URL."""

    model_config = SettingsConfigDict(env_prefix="SHIORI_", extra="ignore", protected_namespaces=())

    # where things live
    data_dir: Path = Path("var")
    database_url: str = "sqlite:///var/shiori.db"
    redis_url: str = "redis://127.0.0.1:6399/0"
    web_dir: Path = Path("web/dist")

    # the gateway
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    """One key (tenant "default"), or "tenant:key,tenant:key". Unset: no key is asked for."""
    max_upload_mb: int = Field(default=100, ge=1)
    git_hosts: str = "github.com,gitlab.com,codeberg.org,bitbucket.org"
    answer_seconds: float = Field(default=600, gt=0)
    """The longest a question may take, from the post to the last word."""

    # the worker
    heartbeat_seconds: float = Field(default=5, gt=0)
    worker_lost_seconds: float = Field(default=20, gt=0)
    """A running job without a heartbeat for this long lost its worker."""
    job_attempts: int = Field(default=4, ge=1)
    engine_patience_seconds: float = Field(default=90, ge=0)
    """How long a read waits for an engine that is restarting."""
    visibility_seconds: int = Field(default=3600, ge=60)
    parse_seconds: float = Field(default=300, gt=0)
    parse_memory_mb: int = Field(default=2048, ge=128)

    # the inference server
    engine_address: str = "127.0.0.1:50051"
    model_dir: Path = Path("lab/model")
    engine_tokens: int | None = None
    """Size of the page pool in tokens; unset: the engine decides from the memory it finds."""
    engine_threads: int | None = None

    # every process
    log_level: str = "INFO"
    log_format: Literal["console", "json"] = "console"

    @field_validator("log_level")
    @classmethod
    def _upper(cls, value: str) -> str:
        return value.upper()

    def api_keys(self) -> dict[str, str]:
        """Key -> tenant. Empty when no key is asked for."""
        raw = self.api_key.get_secret_value() if self.api_key else ""
        return dict(_key_and_tenant(item.strip()) for item in raw.split(",") if item.strip())

    def allowed_git_hosts(self) -> frozenset[str]:
        return frozenset(host.strip().lower() for host in self.git_hosts.split(",") if host.strip())

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 1_000_000

    @property
    def blob_dir(self) -> Path:
        return self.data_dir / "blobs"

    @property
    def index_dir(self) -> Path:
        return self.data_dir / "index"


def _key_and_tenant(item: str) -> tuple[str, str]:
    tenant, colon, key = item.partition(":")
    return (key, tenant) if colon else (item, "default")
