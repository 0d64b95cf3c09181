"""Teachers: networks from timm, torch.hub and their authors' files, frozen and checked."""

from typing import TYPE_CHECKING

from edgeseed.core.lazy import attach

if TYPE_CHECKING:
    from edgeseed.distill.teachers._loading import load_network as load_network
    from edgeseed.distill.teachers._loading import load_teacher as load_teacher
    from edgeseed.distill.teachers._table import TeacherInfo as TeacherInfo
    from edgeseed.distill.teachers._table import list_teachers as list_teachers
    from edgeseed.distill.teachers.network import Teacher as Teacher
    from edgeseed.distill.teachers.network import TeacherOutput as TeacherOutput

__getattr__, __all__ = attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "Teacher": ".network:Teacher",
        "TeacherInfo": "._table:TeacherInfo",
        "TeacherOutput": ".network:TeacherOutput",
        "list_teachers": "._table:list_teachers",
        "load_network": "._loading:load_network",
        "load_teacher": "._loading:load_teacher",
    },
)
