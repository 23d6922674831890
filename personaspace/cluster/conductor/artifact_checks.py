"""Whether artifacts are there, asked of the store by a few threads and answered into a queue."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from personaspace.cluster.conductor.news import Checked, Inbox, StoreTrouble
from personaspace.cluster.states import Cause, Reason
from personaspace.errors import UnavailableError, UserError
from personaspace.store import Store

#: A manifest that should be there is looked for so often, with a pause between.
TRIES, PAUSE_SECONDS = 3, 1.0
#: Pause before a store in trouble is asked again.
TROUBLE_SECONDS = 10.0


class ArtifactChecker:
    """Reads manifests in the background: puts `Checked`, and `StoreTrouble` while it cannot.

    Args:
        store: Where artifacts are.
        artifacts: Key and fingerprint of every node.
        out: Where to put.
        threads: Reads at once.
    """

    def __init__(
        self,
        store: Store,
        artifacts: dict[str, tuple[str, str]],
        out: Inbox,
        threads: int = 8,
    ) -> None:
        self.store, self.artifacts, self.out = store, artifacts, out
        self.pending: set[str] = set()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._retry_at: dict[str, float] = {}
        self._trouble_since: float | None = None

    def ask(self, node: str) -> None:
        """Have a node's manifest read, unless that is under way already."""
        if node not in self.pending and time.monotonic() >= self._retry_at.get(node, 0.0):
            self.pending.add(node)
            self._pool.submit(self._read, node)

    def _read(self, node: str) -> None:
        key, fingerprint = self.artifacts[node]
        try:
            for attempt in range(TRIES):
                if attempt:
                    time.sleep(PAUSE_SECONDS)
                manifest = self.store.find(key)
                if manifest is not None:
                    break
        except UserError as error:
            now = time.monotonic()
            self._retry_at[node] = now + TROUBLE_SECONDS
            # A server that is away comes back; a bucket that is not there may not.
            if isinstance(error, UnavailableError):
                self._trouble_since = None
            elif self._trouble_since is None:
                self._trouble_since = now
            since = self._trouble_since
            seconds = 0.0 if since is None else now - since
            self.out.put(StoreTrouble(node, str(error), seconds))
        except Exception as error:  # a thread must not end unseen
            fault = Cause(Reason.ERROR, f"{node}: {type(error).__name__}: {error}", node)
            self.out.put(Checked(node, fault))
        else:
            self._trouble_since = None
            self.out.put(Checked(node, self._fault(node, manifest, fingerprint)))

    @staticmethod
    def _fault(node: str, manifest: object, fingerprint: str) -> Cause | None:
        if manifest is None:
            text = f"{node} succeeded, but its artifact is not in the store"
            return Cause(Reason.ARTIFACT_MISSING, text, node)
        found = getattr(manifest, "fields", {}).get("fingerprint")
        if found != fingerprint:
            text = f"{node}: its artifact has another fingerprint"
            return Cause(Reason.OTHER_FINGERPRINT, text, node)
        return None

    def close(self) -> None:
        """Stop asking."""
        self._pool.shutdown(wait=False, cancel_futures=True)
