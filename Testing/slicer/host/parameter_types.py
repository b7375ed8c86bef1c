"""How the values of a parameter node are written into it: as Slicer's own serialisers do, for the kinds used here."""

from __future__ import annotations

import dataclasses
import pathlib
import typing


class ValidationError(ValueError):
    """A value that an annotation (WithinRange, Choice, ...) does not allow."""


@dataclasses.dataclass
class WithinRange:
    """Annotation: minimum <= value <= maximum."""

    minimum: float
    maximum: float

    def validate(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


@dataclasses.dataclass
class Minimum:
    """Annotation: minimum <= value."""

    minimum: float

    def validate(self, value) -> None:
        if value < self.minimum:
            raise ValueError(f"{value} is below {self.minimum}")


@dataclasses.dataclass
class Maximum:
    """Annotation: value <= maximum."""

    maximum: float

    def validate(self, value) -> None:
        if value > self.maximum:
            raise ValueError(f"{value} is above {self.maximum}")


class Choice:
    """Annotation: one of the values listed."""

    def __init__(self, choices) -> None:
        self.choices = choices

    def validate(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


@dataclasses.dataclass
class Default:
    """Annotation: the value of a new parameter node."""

    value: object


@dataclasses.dataclass
class Decimals:
    """Annotation for spin boxes and sliders."""

    value: int


@dataclasses.dataclass
class SingleStep:
    """Annotation for spin boxes and sliders."""

    value: float


def split(annotated):
    """(type, annotations) of a possibly Annotated type."""
    if typing.get_origin(annotated) is typing.Annotated:
        kind, *rest = typing.get_args(annotated)
        return kind, rest
    return annotated, []


def isNodeType(kind) -> bool:
    """Whether a type is a class of MRML nodes."""
    return isinstance(kind, type) and hasattr(kind, "GetNodeTagName")


class Plain:
    """Text, number or path, as a parameter's text."""

    zero: typing.ClassVar[dict] = {str: "", int: 0, float: 0.0, bool: False, pathlib.Path: pathlib.Path()}

    def __init__(self, kind) -> None:
        self.kind = kind

    def default(self):
        return self.zero[self.kind]

    def isIn(self, node, name: str) -> bool:
        return node.HasParameter(name)

    def write(self, node, name: str, value) -> None:
        if self.kind is str and not isinstance(value, str):
            raise TypeError(f"{name} is a text, not {value!r}")
        if self.kind in (int, float) and not isinstance(value, (int, float)):
            raise TypeError(f"{name} is a number, not {value!r}")
        if self.kind is bool and not isinstance(value, bool):
            raise TypeError(f"{name} is a bool, not {value!r}")
        node.SetParameter(name, str(self.kind(value)))

    def read(self, node, name: str):
        text = node.GetParameter(name)
        return text == "True" if self.kind is bool else self.kind(text)


class NodeReference:
    """A node of the scene, as a reference that follows its renumbering when scenes are merged."""

    def __init__(self, kind) -> None:
        self.kind = kind

    def default(self):
        return None

    def isIn(self, node, name: str) -> bool:
        return True  # no reference is the default

    def write(self, node, name: str, value) -> None:
        if value is not None and not isinstance(value, self.kind):
            raise TypeError(f"{name} is a {self.kind.__name__}, not {value!r}")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node, name: str):
        return node.GetNodeReference(name)


class ListOf:
    """A list, as a count and one entry each; read as a list that writes its changes back."""

    def __init__(self, element) -> None:
        self.element = serializer(element)

    def default(self):
        return []

    def isIn(self, node, name: str) -> bool:
        return node.HasParameter(name)

    def write(self, node, name: str, value) -> None:
        before = int(node.GetParameter(name) or 0) if self.isIn(node, name) else 0
        values = list(value)
        for index, one in enumerate(values):
            self.element.write(node, f"{name}_{index}", one)
        for index in range(len(values), before):
            node.UnsetParameter(f"{name}_{index}")
        node.SetParameter(name, str(len(values)))

    def read(self, node, name: str):
        count = int(node.GetParameter(name))
        return Observed(
            [self.element.read(node, f"{name}_{index}") for index in range(count)], node, name, self
        )


class Observed(list):
    """A list that writes itself to the parameter node whenever it changes."""

    def __init__(self, values, node, name: str, kind: ListOf) -> None:
        super().__init__(values)
        self._where = (node, name, kind)

    def _changed(self) -> None:
        node, name, kind = self._where
        kind.write(node, name, self)


def _noting(method: str):
    def changed(self, *arguments):
        result = getattr(list, method)(self, *arguments)
        self._changed()
        return result

    return changed


for _name in ("append", "extend", "insert", "remove", "pop", "clear", "__setitem__", "__delitem__", "sort"):
    setattr(Observed, _name, _noting(_name))


def serializer(kind):
    """The serialiser of a type; TypeError for one that the host does not know."""
    if kind in Plain.zero:
        return Plain(kind)
    if isNodeType(kind):
        return NodeReference(kind)
    if typing.get_origin(kind) is list:
        return ListOf(typing.get_args(kind)[0])
    raise TypeError(f"the host's parameterNodeWrapper does not know {kind}")
