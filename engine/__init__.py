"""The engine: token ids in, token ids out. It knows no text, no network and no database."""

from engine.cache import BooksError, EngineFull
from engine.checkpoint import CheckpointError
from engine.config import ConfigError, EngineConfig, ModelConfig
from engine.copying import Copying
from engine.device import DeviceError
from engine.engine import Engine
from engine.info import EngineInfo
from engine.memory import DoesNotFit
from engine.occurrences import Occurrences
from engine.provenance import ProvenanceError, Tag
from engine.request import Done, Event, Progress, Token
from engine.restore import SnapshotMismatch
from engine.sampler import SamplingParams
from engine.sequences import SequenceBusy, UnknownSequence
from engine.state import Exported, Snapshot
from engine.weights import best_dtype, check_inventory, load_model

__all__ = [
    "BooksError",
    "CheckpointError",
    "ConfigError",
    "Copying",
    "DeviceError",
    "DoesNotFit",
    "Done",
    "Engine",
    "EngineConfig",
    "EngineFull",
    "EngineInfo",
    "Event",
    "Exported",
    "ModelConfig",
    "Occurrences",
    "Progress",
    "ProvenanceError",
    "SamplingParams",
    "SequenceBusy",
    "Snapshot",
    "SnapshotMismatch",
    "Tag",
    "Token",
    "UnknownSequence",
    "best_dtype",
    "check_inventory",
    "load_model",
]
