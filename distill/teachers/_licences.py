"""Whose weights these are, and whether they may be sold."""

from dataclasses import dataclass

from edgeseed.distill.teachers._table import TeacherInfo, list_teachers

_PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause")
_NON_COMMERCIAL = ("-nc", "noncommercial", "seer")


@dataclass(frozen=True, slots=True)
class Licence:
    """The licence of a teacher's weights.

    Attributes:
        text: Its name, or what is known instead.
        commercial_ok: Whether it allows commercial use; None where one must read it.
    """

    text: str
    commercial_ok: bool | None


def licence_of_timm(info: TeacherInfo | None, stated: str | None) -> Licence:
    """Of weights that timm serves: as the table says, else as timm states it."""
    if info is not None:
        return Licence(info.licence, info.commercial_ok)
    if stated is None:
        return Licence("not stated by timm", None)
    if any(word in stated for word in _NON_COMMERCIAL):
        return Licence(stated, False)
    return Licence(stated, True if stated in _PERMISSIVE else None)


def licence_of_file(family: str | None, info: TeacherInfo | None) -> Licence:
    """Of a file, which does not say who trained it: only a tag that the user wrote does."""
    if info is not None:
        return Licence(info.licence, info.commercial_ok)
    if family is None:
        return Licence("not stated in the file", None)
    published = sorted({row.licence for row in list_teachers() if row.family == family})
    return Licence(f"not stated in the file ({family}'s own weights: {', '.join(published)})", None)
