"""The engine: token ids in, token ids out. It knows no text, no network and no database."""

from engine.cache import BooksError, EngineFull
from engine.config import ConfigError, EngineConfig, ModelConfig
from engine.engine import Engine, EngineInfo, SequenceBusy, Snapshot, SnapshotMismatch, UnknownSequence
from engine.request import Done, Event, Progress, Token
from engine.sampler import SamplingParams
from engine.weights import CheckpointError, check_inventory, load_model

__all__ = [
    "BooksError",
    "CheckpointError",
    "ConfigError",
    "Done",
    "Engine",
    "EngineConfig",
    "EngineFull",
    "EngineInfo",
    "Event",
    "ModelConfig",
    "Progress",
    "SamplingParams",
    "SequenceBusy",
    "Snapshot",
    "SnapshotMismatch",
    "Token",
    "UnknownSequence",
    "check_inventory",
    "load_model",
]
