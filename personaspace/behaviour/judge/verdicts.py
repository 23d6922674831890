"""What a judge said, kept in the store: no question is asked twice, whoever asks it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from personaspace.behaviour.judge.asking import Ask, JudgeModel, Score
from personaspace.errors import UserError
from personaspace.store import Store

#: Below this in the store, a folder for each judge.
PREFIX = "verdicts"
FILE = "verdicts.jsonl"
#: Kept at the latest after so many verdicts, or so many seconds.
KEEP_EVERY, KEEP_AFTER = 200, 60.0
#: A judge that gives no number to the first so many questions is none.
NONE_OF = 10


@dataclass
class Asked:
    """What a round of questions cost.

    Attributes:
        requests: Questions that the judge was asked now.
        reused: Questions that it had answered before.
        read: Tokens of the prompts asked now.
        written: Tokens of the replies.
        no_number: Replies without a number, of all.
        seconds: How long it took.
    """

    requests: int = 0
    reused: int = 0
    read: int = 0
    written: int = 0
    no_number: int = 0
    seconds: float = 0.0

    def __add__(self, other: Asked) -> Asked:
        mine, theirs = asdict(self), asdict(other)
        return Asked(**{name: mine[name] + theirs[name] for name in mine})


@dataclass
class Verdicts:
    """Verdicts of one judge in a store.

    Attributes:
        store: Where they are.
        judge: What decides whether two verdicts are of the same judge.
        name: The judge's, for messages.
    """

    store: Store
    judge: Sequence[str]
    name: str
    _scores: dict[str, Score] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _fresh: dict[str, Score] = field(default_factory=dict)
    _kept_at: float = 0.0

    @property
    def prefix(self) -> str:
        """Where this judge's verdicts are."""
        digest = hashlib.sha256(json.dumps(list(self.judge)).encode()).hexdigest()
        return f"{PREFIX}/{digest[:16]}"

    def load(self) -> int:
        """Read what was kept since the last look; how many verdicts are known now."""
        for key in self.store.list(self.prefix):
            if key in self._seen:
                continue
            text = (self.store.fetch(key) / FILE).read_text(encoding="utf-8")
            for line in text.splitlines():
                row = json.loads(line)
                known = row.pop("key")
                self._scores[known] = Score(**row)
            self._seen.add(key)
        return len(self._scores)

    def ask(
        self,
        ready: Callable[[], JudgeModel],
        asks: Sequence[Ask],
        advance: Callable[[int], None] = lambda _: None,
    ) -> tuple[dict[Ask, Score], Asked]:
        """Scores of all questions, equal ones asked once.

        What was answered is kept even if the judge fails or the process is asked to stop.

        Args:
            ready: Gives the judge; not called if all is known.
            asks: Questions.
            advance: Called with the number of questions done since the last call.

        Raises:
            UserError: The judge cannot be asked, or gives no numbers at all.
        """
        self.load()
        began = self._kept_at = time.monotonic()
        wanted = {ask: ask.key(self.judge) for ask in dict.fromkeys(asks)}
        missing = [ask for ask, key in wanted.items() if key not in self._scores]
        done = Asked(reused=len(wanted) - len(missing))
        advance(done.reused)
        try:
            for ask, score in ready().scores(missing) if missing else ():
                self._scores[wanted[ask]] = self._fresh[wanted[ask]] = score
                done.requests += 1
                done.read += score.read
                done.written += score.written
                self._check(score)
                self._keep_in_time()
                advance(1)
        finally:
            self._keep()
        found = {ask: self._scores[key] for ask, key in wanted.items()}
        done.no_number = sum(score.value is None for score in found.values())
        done.seconds = round(time.monotonic() - began, 3)
        return found, done

    @property
    def _any_number(self) -> bool:
        return any(score.value is not None for score in self._scores.values())

    def _check(self, score: Score) -> None:
        """Raise where the judge turns out to give no numbers."""
        if score.value is not None or self._any_number:
            return
        if len(self._fresh) >= NONE_OF:
            # Of no use to anybody: asked again once the judge is mended.
            fresh, self._fresh = self._fresh, {}
            for key in fresh:
                self._scores.pop(key, None)
            said = next((s.said for s in fresh.values() if s.said), "")
            raise UserError(
                f"judge.model: {self.name} gave no number to its first {NONE_OF} questions"
                + (f" (it said {json.dumps(said, ensure_ascii=False)})" if said else "")
            )

    def _keep_in_time(self) -> None:
        late = time.monotonic() - self._kept_at > KEEP_AFTER
        if len(self._fresh) >= KEEP_EVERY or late:
            self._keep()

    def _keep(self) -> None:
        """Put new verdicts into the store; not before the judge has shown that it gives numbers."""
        if not self._fresh or not self._any_number:
            return
        lines = [
            json.dumps({"key": key, **asdict(score)}, ensure_ascii=True)
            for key, score in sorted(self._fresh.items())
        ]
        text = "\n".join(lines) + "\n"
        key = f"{self.prefix}/{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        with self.store.writer(key) as writer:
            (writer.folder / FILE).write_text(text, encoding="utf-8")
            writer.commit({"judge": list(self.judge), "verdicts": len(self._fresh)})
        self._seen.add(key)
        self._fresh = {}
        self._kept_at = time.monotonic()
