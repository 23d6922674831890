"""Names on the Hub: of a repository, and of a collection."""

from __future__ import annotations

import re

from personaspace.errors import UserError, one_line

_ADDRESS = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def check_name(repo: str) -> None:
    """That a repository may be called so.

    Raises:
        UserError: It may not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented

    wrong = UserError(f"{repo}: not a name of a repository; it looks like owner/name")
    if repo.count("/") != 1 or not all(repo.split("/")) or not repo.isascii():
        raise wrong
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{wrong} ({one_line(UserError(str(error)))})") from None


def check_title(title: str) -> None:
    """That a collection may be called so, or be at this address.

    Raises:
        UserError: It may not.
    """
    if not title.strip() or not title.isprintable():
        raise UserError(f"{title!r}: a title of a collection is one line of text")
    if is_address(title) and not _ADDRESS.fullmatch(title):
        raise UserError(
            f"{title}: not an address of a collection, which looks like owner/slug (a title has no "
            "slash)"
        )


def is_address(title: str) -> bool:
    """Whether a collection is named by its address, so that none is made."""
    return "/" in title
