"""What one question needs on its way to its answer: whom it asks, what it was told, what that took."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

from services.agent.looks import Look, passages
from services.agent.model import Model, Said, listen, quoting, say, special
from services.agent.types import Emit, Hit, Origin, SourceView
from services.inference.pb.inference_pb2 import Copy, Part

ANSWER_TOKENS = 48


@dataclass
class Turn:
    model: Model
    views: Sequence[SourceView]
    session_id: str
    question: str
    emit: Emit
    origin: Origin
    calls: list[Said] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @cached_property
    def hits(self) -> list[Hit]:
        """Where the answer may stand; looked for when it is first needed, behind the first look."""
        return passages(self.views, self.question)

    def point(self, prompt: Sequence[Part], origin: Origin, copy: Copy) -> Said:
        """Asks the reading, or the model with the prompt alone, and tells what it says while it says it."""
        look = len(self.calls) + 1
        session_id = self.session_id if origin == "read" else ""
        said = say(self.model, session_id, [*prompt, special("answer")], ANSWER_TOKENS, copy, self.drafting(look))
        return self.heard(said, origin)

    def ask(self, look: Look) -> Said:
        """Asks for a quote, whether the model would say one or not."""
        session_id = self.session_id if look.origin == "read" else ""
        prompt, copy = [*look.prompt, special("answer")], look.quotable.copy()
        with closing(quoting(self.model, session_id, prompt, ANSWER_TOKENS, copy)) as stream:
            return self.heard(listen(stream, self.drafting(len(self.calls) + 1)), look.origin)

    def drafting(self, look: int):
        pieces = 0

        def draft(words: str) -> None:
            nonlocal pieces
            self.emit("draft", {"text": words, "n": pieces, "look": look})
            pieces += 1

        return draft

    def heard(self, said: Said, origin: Origin) -> Said:
        self.calls.append(said)
        if origin == "read":
            ms, tokens = said.timing["restore_ms"], said.usage["resumed_tokens"]
            self.emit("state.restored", {"ms": ms, "tokens": tokens, "source": "vault" if ms > 0 else "memory"})
        return said

    def usage(self) -> dict[str, int]:
        """Tokens: resumed once, computed and decoded in all, and how often the model was asked (calls)."""
        total = lambda name: sum(said.usage.get(name, 0) for said in self.calls)  # noqa: E731
        first = self.calls[0].usage if self.calls else {}
        counts = {"prompt_tokens": first.get("prompt_tokens", 0), "resumed_tokens": first.get("resumed_tokens", 0)}
        computed = {"read_tokens": total("read_tokens"), "completion_tokens": total("completion_tokens")}
        return {**counts, **computed, "calls": len(self.calls)}

    def timing(self) -> dict[str, float]:
        """Milliseconds; looks that were taken at once count each."""
        total = lambda name: round(sum(said.timing.get(name, 0.0) for said in self.calls), 1)  # noqa: E731
        spent = {name: total(name) for name in ("restore_ms", "read_ms", "decode_ms")}
        return {**spent, "total_ms": round(1000 * (time.monotonic() - self.began), 1)}
