"""Settings of an experiment: declared once, and then an option, a suite's key and a keyword.

    class MySettings(Settings):
        work_us: tuple[int, ...] = setting((50, 800), "Work of a request.", unit="us", ge=1)
        QUICK: ClassVar = {**Settings.QUICK, "work_us": (50,)}

A field has its type, default and bounds, its help and its unit.  The key ends
in the unit (`duration_s`), the option does not (`--duration`).  A field may be
of any type that pydantic knows.  Those in `_TYPES` are what a person would call
them: numpy's numbers are numbers and any list is a list, but a text is no
number.  A list of numbers is a list of levels: ascending, each once.

What is wrong with a value is a `SettingError`: the key and the text apart, so
that each front end names a setting in its own way.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from sedabench.errors import SettingError, UserError, nearest, unknown
from sedabench.targets.external import ExternalSpec
from sedabench.targets.servers import AnyServer, ServerSpec

MAX_REPEATS = 10_000
"""Beyond it a plan is a slip of the keyboard, and would not fit into memory."""

UNITS = ("s", "ms", "us", "bytes", "rps")
"""What a key may end in, after "_"."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class About:
    """What a field says beside its type, its default and its help."""

    unit: str = ""
    option: str | None = None
    """The option's name where it is not the key without its unit."""
    metavar: str | None = None
    gt: float | None = None
    ge: float | None = None
    le: float | None = None
    known: tuple[str, ...] = ()
    """Of a text: all that it may be."""

    def wrong(self, value: Any) -> str | None:
        """What is wrong with one value, if anything."""
        if self.gt is not None and not value > self.gt:
            return f"must be over {self.gt:g}, not {value:g}"
        if self.ge is not None and not value >= self.ge:
            return f"must be at least {self.ge:g}, not {value:g}"
        if self.le is not None and not value <= self.le:
            return f"must be at most {self.le:g}, not {value:g}"
        return None


def setting(
    default: Any,
    text: str,
    *,
    unit: str = "",
    option: str | None = None,
    metavar: str | None = None,
    gt: float | None = None,
    ge: float | None = None,
    le: float | None = None,
    known: Iterable[str] = (),
) -> Any:
    """A field of `Settings`: its default and its help, and what `About` says.

    Bounds of a list are those of each of its values.
    """
    about = About(unit, option, metavar, gt, ge, le, tuple(known))
    return Field(default, description=text, json_schema_extra={"about": about})  # type: ignore[dict-item]


def about(field: FieldInfo) -> About:
    """What a field says of itself; nothing if it was declared without `setting`."""
    extra = field.json_schema_extra
    found = extra.get("about") if isinstance(extra, dict) else None
    return found if isinstance(found, About) else About()


# -- values -------------------------------------------------------------------------------


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)  # numpy's too


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    if not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text:
        raise ValueError
    return text


def _list_of(one: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def convert(values: Any) -> tuple[Any, ...]:
        if isinstance(values, str | bytes | Mapping):
            raise TypeError
        return tuple(map(one, values))

    return convert


def _levels_of(one: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Ascending, as the command has them: the order of trials is drawn from this one."""
    convert = _list_of(one)
    return lambda values: tuple(sorted(convert(values)))


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_TYPES: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    bool: ("true or false", _truth),
    int: ("a whole number", _whole),
    float: ("a finite number", _number),
    str: ("a text", _text),
    str | None: ("a text", lambda value: None if value is None else _text(value)),
    tuple[str, ...]: ("a list of texts", _list_of(_text)),
    tuple[int, ...]: ("a list of whole numbers", _levels_of(_whole)),
    tuple[float, ...]: ("a list of finite numbers", _levels_of(_number)),
}
"""Type of a field -> how a person calls it, and what makes it of a value or fails."""

LEVELS = (tuple[int, ...], tuple[float, ...])


def converted(key: str, value: Any, kind: Any) -> Any:
    """`value` as a field of the type `kind` holds it.

    Raises:
        SettingError: it is of another type.
    """
    if kind not in _TYPES:
        return value
    meaning, convert = _TYPES[kind]
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        raise SettingError(key, f"must be {meaning}, not {shown(value)}") from None


def shown(value: Any) -> str:
    """A value in a message, not longer than one reads."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- models -------------------------------------------------------------------------------


class Settings(BaseModel):
    """What every experiment is asked; everything that decides what is measured."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True
    )

    QUICK: ClassVar[Mapping[str, Any]] = {"repeats": 2, "duration_s": 1.0, "warmup_s": 0.3}
    """Other defaults: those of --quick."""
    QUICK_HELP: ClassVar[str] = "Few repeats and short windows."

    servers: tuple[Any, ...] = setting(
        (),
        "A server to compare, one of your own as path/to/file.py:ClassName; repeat it.  "
        "[default: threaded, eventloop, seda]",
        option="--server",
        metavar="[LABEL=]NAME [OPTIONS]",
    )
    repeats: int = setting(
        5, "Trials of each server at each level.", metavar="N", ge=1, le=MAX_REPEATS
    )
    duration_s: float = setting(
        3.0, "Length of the measured window, in seconds.", unit="s", metavar="S", gt=0
    )
    warmup_s: float = setting(1.0, "Warm-up before it, in seconds.", unit="s", metavar="S", ge=0)
    seed: int = setting(2001, "Draws the order of the trials.", metavar="N", ge=0)
    python: str | None = setting(
        None, "The servers' interpreter.  [default: this one]", metavar="PATH"
    )

    @classmethod
    def of(cls, changes: Mapping[str, Any], *, quick: bool = False) -> Self:
        """Settings with these keys and, for the others, the defaults; servers may be lacking.

        Raises:
            SettingError: one that cannot be.
            UserError: an unknown one.
        """
        return validated(cls, {**(cls.QUICK if quick else {}), **changes})

    def but(self, **changes: Any) -> Self:
        """The same with other values.  Raises as `of`."""
        kept = {key: getattr(self, key) for key in type(self).model_fields}
        return validated(type(self), {**kept, **changes})

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_type(cls, value: Any, info: Any) -> Any:
        """As `_TYPES` has it, within its bounds; levels ascending, each once, at least one."""
        field = cls.model_fields[info.field_name]
        if info.field_name == "servers":
            return _servers(value)
        kind, said = field.annotation, about(field)
        try:
            value = converted(info.field_name, value, kind)
        except SettingError as error:
            raise wrong(error.text) from None
        if kind in LEVELS and not value:
            raise wrong("names no level; name one at least, 1,16,64 perhaps")
        if kind in LEVELS and len(set(value)) < len(value):
            raise wrong("names a level twice; name each once")
        for one in value if kind in LEVELS else (value,):
            bounded = isinstance(one, int | float) and not isinstance(one, bool)
            if bounded and (text := said.wrong(one)):
                raise wrong(text)
            if said.known and one not in said.known:
                raise wrong(f"cannot be {one!r}; {nearest(one, said.known)}")
        return value


def _servers(value: Any) -> tuple[AnyServer, ...]:
    """Each with texts for a label, an architecture and options: JSON can say other things."""
    for spec in value:
        texts = (spec.label, spec.architecture, *spec.options)
        if not isinstance(spec, ServerSpec | ExternalSpec) or not all(
            isinstance(text, str) for text in texts
        ):
            raise wrong(f"holds {shown(spec)}, which is no server")
    return tuple(value)


def wrong(text: str) -> PydanticCustomError:
    """What a validator raises; braces are no placeholders."""
    return PydanticCustomError("wrong", "{text}", {"text": text})


def validated(model: type[Model], values: Mapping[str, Any], kind: str = "setting") -> Model:
    """A model of these values; a key of it is called a `kind`.

    Raises:
        SettingError: a value that cannot be, or one that is lacking.
        UserError: an unknown key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise one_error(error, model, kind) from None


def one_error(error: ValidationError, model: type[BaseModel], kind: str) -> UserError:
    """The first thing that is wrong, in one line."""
    found = error.errors(include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return unknown(kind, key, model.model_fields)
    if first["type"] == "missing":
        return SettingError(key, "is lacking; it has no default")
    if first["type"] == "wrong":
        return SettingError(key, str(first["msg"]))
    said = str(first["msg"])
    return SettingError(key, f"cannot be {shown(first['input'])}: {said[:1].lower()}{said[1:]}")


@contextmanager
def at(where: str) -> Iterator[None]:
    """Errors raised inside say where: in which file, in which run."""
    try:
        yield
    except UserError as error:
        line = UserError(f"{where}: {error}")
        if not isinstance(error, SettingError):
            line = type(error)(f"{where}: {error}")
        raise line from error.__cause__


# -- options ------------------------------------------------------------------------------


def option_of(settings: type[Settings], key: str) -> str:
    """How a setting is called at the command line: "--duration" for `duration_s`."""
    field = settings.model_fields.get(key)
    said = about(field) if field is not None else About()
    if said.option is not None:
        return said.option
    name = key.removesuffix(f"_{said.unit}") if said.unit else key
    return "--" + name.replace("_", "-")
