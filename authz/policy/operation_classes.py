"""The operations that policies can tell apart at a destination, by one example of each: paths, and methods on them.

# INVARIANT (complete): if two sets answer some request to a destination differently, they do so for the example of its
# class. A path's shape counts where one of them allows it and the other does not; empty segments count where one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import quote

from authz.policy.evaluation import CONNECT
from authz.policy.operation import ALL, GrpcOperation, HttpOperation
from authz.policy.party import GRPC_METHOD, broadened
from authz.policy.route import ANY_SEGMENT, REST, PathShape, PathTemplate
from authz.policy.segment_partition import Alphabet, segment_classes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from authz.policy.tls_classes import TlsClass


#: A method that no policy names.
_FRESH_METHOD: Final = "ANY-OTHER"
#: What is put into a free segment to give a path the shape.
_SHAPED: Final = {
    PathShape.SEMICOLON: ";x",
    PathShape.ENCODED_SLASH: "%2Fx",
    PathShape.ENCODED_DELIMITER: "%3Fx",
}
#: What need not be percent-encoded in a segment (RFC 3986 3.3), `;` aside: an example is not longer than it must be.
_PLAIN: Final = "!$&'()*+,=:@"

HttpOrGrpc: TypeAlias = HttpOperation | GrpcOperation


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodClass:
    """A method, as a gRPC call or not; `named` is false for all methods that no rule for these paths names.

    `tls` are the versions of the caller's connection, where these make a difference.
    """

    method: str
    is_grpc: bool
    named: bool
    tls: TlsClass | None = None

    @property
    def is_tunnel(self) -> bool:
        """Whether it asks for an opaque tunnel, for which there are rules besides."""
        return self.method == CONNECT

    def is_meant(self, operation: HttpOrGrpc) -> bool:
        """Whether an operation means calls by this method, on paths that it means."""
        if isinstance(operation, GrpcOperation):
            return self.is_grpc
        return operation.methods is ALL or self.method in operation.methods


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathClass:
    """The paths that exactly these operations mean, by number; `template` stands for them, None for any other path.

    `has_gap` says that a segment is empty which is not the last; they have `shape` besides what the template has.
    """

    target: str
    template: PathTemplate | None
    shape: PathShape | None
    has_gap: bool
    operations: frozenset[int]

    def methods(self, operations: Sequence[HttpOrGrpc]) -> list[MethodClass]:
        """Give the methods that the operations on these paths can tell apart."""
        here = [operations[number] for number in sorted(self.operations)]
        http = [each for each in here if isinstance(each, HttpOperation)]
        names = sorted({name for each in http if each.methods is not ALL for name in each.methods})
        found = [MethodClass(method=name, is_grpc=False, named=True) for name in names]
        has_grpc = any(isinstance(each, GrpcOperation) for each in here)
        if has_grpc:
            found.append(MethodClass(method=GRPC_METHOD, is_grpc=True, named=True))
        if any(each.methods is ALL for each in http):
            if has_grpc and GRPC_METHOD not in names:
                found.append(MethodClass(method=GRPC_METHOD, is_grpc=False, named=True))
            found.append(MethodClass(method=_FRESH_METHOD, is_grpc=False, named=False))
            if CONNECT not in names:
                found.append(MethodClass(method=CONNECT, is_grpc=False, named=True))
        return found


def path_classes(
    operations: Sequence[HttpOrGrpc],
    *,
    relevant: Collection[int] | None = None,
    shapes: Collection[PathShape] = (),
    gaps: bool = False,
) -> list[PathClass]:
    """Give the classes of paths that some operation means, one of the `relevant` ones by number; None: any of them.

    `shapes` are those of path to be looked at besides; `gaps`: so are empty segments.
    """
    everywhere = frozenset(
        number for number, each in enumerate(operations) if isinstance(each, HttpOperation) and each.paths is ALL
    )
    if relevant is not None and not everywhere.isdisjoint(relevant):
        relevant = None
    templates = list(_templates(operations))
    patterns = [(template.segments, (number, template)) for number, template in templates]
    numbers = None if relevant is None else {at for at, (number, _) in enumerate(templates) if number in relevant}
    alphabet = Alphabet(any_segment=ANY_SEGMENT, rest=REST, empty_last=True, empty_within=gaps)
    put_in = sorted(set(shapes) & set(_SHAPED))
    found = []
    for each in segment_classes(
        patterns, alphabet, relevant=numbers, unmatched=bool(everywhere) and relevant is None, free=bool(put_in)
    ):
        template = _standing_for([template for _, template in each.matched], each.shape) if each.matched else None
        means = everywhere | {number for number, _ in each.matched}
        gap = PathShape.DOUBLE_SLASH if each.gap and not _has_gap(template) else None
        if not each.again:
            found.append(
                PathClass(
                    target=_target(each.example), template=template, shape=gap, has_gap=each.gap, operations=means
                )
            )
        free = [index for index, segment in enumerate(each.shape) if segment == ANY_SEGMENT]
        found += [
            PathClass(
                target=_target(each.example, (free[0], shape)),
                template=template,
                shape=shape,
                has_gap=each.gap,
                operations=means,
            )
            for shape in put_in
            if free
        ]
    return found


def tunnel_path(operations: Sequence[HttpOrGrpc]) -> PathClass:
    """Give the path of every request for a tunnel, with the operations that mean it: it counts as `/`."""
    means = (
        number
        for number, each in enumerate(operations)
        if isinstance(each, HttpOperation) and (each.paths is ALL or any(path.segments == ("",) for path in each.paths))
    )
    root = PathTemplate(text="/", segments=("",))
    return PathClass(target=root.text, template=root, shape=None, has_gap=False, operations=frozenset(means))


def forbidden_operation(operation: HttpOrGrpc) -> HttpOperation:
    """Give what a Guardrail's operation means: it matches broadly, as `GuardTable` does."""
    if isinstance(operation, GrpcOperation):
        return HttpOperation(
            methods=ALL, paths=tuple(path for each in operation.methods for path in _broad(each.segments))
        )
    methods = operation.methods
    if methods is not ALL and "GET" in methods:
        methods |= {"HEAD"}
    if operation.paths is ALL:
        return HttpOperation(methods=methods, paths=ALL)
    return HttpOperation(
        methods=methods, paths=tuple(each for path in operation.paths for each in _broad(path.segments))
    )


def _broad(segments: tuple[str, ...]) -> Iterator[PathTemplate]:
    for each in broadened(segments):
        for broad in (each, (*each, "")):
            yield PathTemplate(text="/" + "/".join(broad), segments=broad)


def _templates(operations: Sequence[HttpOrGrpc]) -> Iterator[tuple[int, PathTemplate]]:
    for number, operation in enumerate(operations):
        if isinstance(operation, GrpcOperation):
            for method in operation.methods:
                yield number, PathTemplate(text=f"/{method}", segments=method.segments)
        elif operation.paths is not ALL:
            yield from ((number, path) for path in operation.paths)


def _standing_for(templates: Sequence[PathTemplate], shape: Sequence[str]) -> PathTemplate:
    """Give the template that lies within all others; where none does, what they have in common."""
    # A Guardrail also means a trailing slash behind all the rest: no pattern of a rule says that.
    known = [each for each in templates if REST not in each.segments[:-1]]
    for template in sorted(known, key=lambda each: (-each.literals, each.text.count(ANY_SEGMENT), each.text)):
        if len(known) == len(templates) and all(other.covers(template) for other in templates):
            return template
    return PathTemplate(text="/" + "/".join(shape), segments=tuple(shape))


def _has_gap(template: PathTemplate | None) -> bool:
    return template is not None and "" in template.segments[:-1]


def _target(segments: Sequence[str], shaped: tuple[int, PathShape] | None = None) -> str:
    """Write segments as a request's target; one of them may get a shape."""
    written = [quote(segment, safe=_PLAIN) for segment in segments]
    if shaped is not None:
        written[shaped[0]] += _SHAPED[shaped[1]]
    return "/" + "/".join(written)
