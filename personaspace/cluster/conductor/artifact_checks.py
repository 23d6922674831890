"""Whether artifacts are there, asked of the store by a few threads and answered into a queue."""

from __future__ import annotations

import queue
import time
from concurrent.futures import ThreadPoolExecutor

from personaspace.errors import UnavailableError, UserError
from personaspace.store import Store

#: A manifest that should be there is looked for so often, with a pause between.
TRIES, PAUSE_SECONDS = 3, 1.0
#: Pause before a store in trouble is asked again.
TROUBLE_SECONDS = 10.0


class Checker:
    """Reads manifests in the background.

    Puts `("node", id, None)` when it is there with the right fingerprint, `("node", id, fault)` if
    not, and `("store", id, text, since)` while the store cannot be read.

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
        out: queue.Queue[tuple[object, ...]],
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
            self.out.put(("store", node, str(error), 0.0 if since is None else now - since))
        except Exception as error:  # a thread must not end unseen
            self.out.put(("node", node, f"{node}: {type(error).__name__}: {error}"))
        else:
            self._trouble_since = None
            self.out.put(("node", node, self._fault(node, manifest, fingerprint)))

    @staticmethod
    def _fault(node: str, manifest: object, fingerprint: str) -> str | None:
        if manifest is None:
            return f"{node} ended well, but its artifact is not in the store"
        found = getattr(manifest, "fields", {}).get("fingerprint")
        if found != fingerprint:
            return f"{node}: its artifact carries another fingerprint"
        return None

    def close(self) -> None:
        """Stop asking."""
        self._pool.shutdown(wait=False, cancel_futures=True)
