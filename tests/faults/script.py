"""A seeded script of what a tenant does: reads, asks, bookmarks, forks, rewinds, deletes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from services import errors
from services.cli.vault_client import VaultClient
from services.inference.client import InferenceClient, tokens
from services.inference.pb import inference_pb2 as pb
from tests.faults.book import Book, Broken, Standing
from tests.faults.control import Control, Said, digest_of
from tests.faults.model import Ids, Segments, words

SESSIONS = ("s0", "s1", "s2")  # the same names with every tenant
CALL_SECONDS = 20.0
LONGEST = 1500  # tokens; a longer session goes back to a bookmark, or away
SHARED = tuple(words(random.Random(f"shared {n}"), 40 + 170 * n) for n in range(5))  # what both tenants read


def ask(
    client: InferenceClient, session: str, prompt: Ids, count: int, *, keep: bool = False, timeout: float = CALL_SECONDS
) -> tuple[Said, pb.Usage]:
    """A greedy answer with its log-probabilities."""
    asked = client.generate(session, [tokens(prompt)], max_tokens=count, keep=keep, logprobs=True, timeout=timeout)
    chunks = list(asked)
    ids = [token for chunk in chunks for token in chunk.token_ids]
    return Said.of(ids, [score for chunk in chunks for score in chunk.logprobs]), chunks[-1].usage


class Script:
    """One tenant's, on one engine. Each `step` is one call, at random among those that are possible."""

    def __init__(
        self,
        client: InferenceClient,
        operator: VaultClient | None,  # None: there is no cold tier
        book: Book,
        control: Control,
        dice: random.Random,
        timeout: float = CALL_SECONDS,
    ) -> None:
        self.client, self.operator, self.timeout = client, operator, timeout
        self.book, self.control, self.dice = book, control, dice

    def step(self) -> None:
        session = self.dice.choice(SESSIONS)
        if session in self.book.unsure():
            return self._look(session)
        standing = self.book.sure().get(session)
        if standing is None:
            return self._begin(session)
        moves: list[Callable[[str, Standing], None]] = [*[self._read] * 5, *[self._ask] * 3]
        if standing.segments:
            moves += [self._mark, self._peek, self._cut]
            moves += [self._tier_down] if self.operator else []
        if standing.marks:
            moves += [self._rewind]
        if standing.position > LONGEST:
            moves = [self._rewind] if standing.marks and self.dice.random() < 0.5 else [self._delete]
        return self.dice.choice(moves)(session, standing)

    def _look(self, session: str) -> None:
        try:
            told = self.client.describe_session(session)
        except errors.NotFound:
            told = None
        self.book.settle(session, told)

    def _begin(self, session: str) -> None:
        """Empty, or as a fork of another one at its head or at a bookmark."""
        origins = [name for name, standing in self.book.sure().items() if standing.segments]
        if not origins or self.dice.random() < 0.5:
            with self.book.moving(session, Standing):
                self.client.open_session(session)
            return
        origin = self.dice.choice(origins)
        standing = self.book.sure()[origin]
        mark, segments = self.dice.choice([("", standing.segments), *standing.marks])
        with self.book.moving(session, lambda: Standing(segments)):
            self.client.fork_session(origin, session, bookmark=mark)

    def segment(self) -> Ids:
        if self.dice.random() < 0.3:
            return self.dice.choice(SHARED)
        return words(self.dice, int(2 ** self.dice.uniform(0, 10)))

    def _read(self, session: str, standing: Standing) -> None:
        segment, mark = self.segment(), self._name(standing) if self.dice.random() < 0.2 else ""
        after = standing.read(segment, mark=mark)
        own = digest_of(after.segments) in self.book.tried
        self.book.tried.add(digest_of(after.segments))
        with self.book.moving(session, lambda: after):
            *_, last = self.client.read(session, [tokens(segment)], bookmark=mark, timeout=self.timeout)
        if last.usage.shared_tokens and not own:
            raise Broken("mixed", f"{self.book.tenant}/{session} took over {last.usage.shared_tokens} foreign tokens")

    def _ask(self, session: str, standing: Standing) -> None:
        """A kept answer: prompt and answer become segments of the session."""
        prompt, count = words(self.dice, self.dice.randint(1, 90)), self.dice.randint(1, 6)

        def expected() -> Said:
            return self.control.greedy((*standing.segments, prompt), count)

        with self.book.moving(session, lambda: standing.read(prompt, expected().ids)):
            said, _ = ask(self.client, session, prompt, count, keep=True, timeout=self.timeout)
        if said != expected():
            raise Broken("wrong", f"{self.book.tenant}/{session} answers {said.ids}, the control {expected().ids}")

    def _peek(self, session: str, standing: Standing) -> None:
        """An answer that is not kept moves nothing."""
        check_answer(self.client, self.control, self.book.tenant, session, standing.segments, timeout=self.timeout)

    def _mark(self, session: str, standing: Standing) -> None:
        name = self._name(standing)
        with self.book.moving(session, lambda: standing.marked(name)):
            self.client.bookmark_session(session, name)

    def _rewind(self, session: str, standing: Standing) -> None:
        name = self.dice.choice(standing.marks)[0]
        with self.book.moving(session, lambda: standing.rewound(name)):
            self.client.rewind_session(session, name)

    def _cut(self, session: str, standing: Standing) -> None:
        """Back to any token, in the middle of a segment too."""
        position = self.dice.randint(max(0, standing.position - 400), standing.position)
        with self.book.moving(session, lambda: standing.cut(position)):
            self.client.rewind_session(session, position=position)

    def _tier_down(self, session: str, standing: Standing) -> None:
        """Moves nothing; the blocks are in the cold tier only, and come back when somebody asks."""
        assert self.operator is not None
        down = self.operator._vault.TierDown  # the client's own call has hours
        self.operator._unary(down, pb.VaultSessionRequest(session_id=session), self.timeout)

    def _delete(self, session: str, standing: Standing) -> None:
        with self.book.moving(session, lambda: None):
            self.client.delete_session(session)

    @staticmethod
    def _name(standing: Standing) -> str:
        return f"mark {len(standing.marks)}"


PROBE = words(random.Random("probe"), 3)
PROBE_TOKENS = 3


def check_answer(
    client: InferenceClient,
    control: Control,
    tenant: str,
    session: str,
    segments: Segments,
    *,
    timeout: float = CALL_SECONDS,
) -> pb.Usage:
    """Equal to the control's, in every bit of every log-probability."""
    said, usage = ask(client, session, PROBE, PROBE_TOKENS, timeout=timeout)
    expected = control.greedy((*segments, PROBE), PROBE_TOKENS)
    if said != expected:
        raise Broken("wrong", f"{tenant}/{session} answers {said.ids}, the control {expected.ids}")
    return usage


class Running:
    """Scripts that run, a thread a tenant, until they are told to stop or their engine is gone."""

    def __init__(self, scripts: list[Script]) -> None:
        self._stop = threading.Event()
        self.calls, self.refused = 0, list[errors.ShioriError]()
        self.broken: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(script,), daemon=True) for script in scripts]

    def __enter__(self) -> Running:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.broken:
            raise self.broken[0]

    def stop(self) -> None:
        """Calls that run are finished; those that fail from here on are the killer's doing."""
        self._stop.set()

    def _run(self, script: Script) -> None:
        try:
            while not self._stop.is_set():
                self._step(script)
        except BaseException as error:
            if not (self._stop.is_set() and isinstance(error, ValueError)):  # a channel that the killer closed
                self.broken.append(error)

    def _step(self, script: Script) -> None:
        try:
            script.step()
            self.calls += 1
        except errors.ShioriError as error:
            if not self._stop.is_set():
                self.refused.append(error)
