"""Domains: the sets a hyperparameter may be drawn from, and the marker that lets a field hold one.

Owns the notation (`{uniform: [0, 1]}`), its checks and its enumeration. It must not know any
hyperparameter by name, nor how a searcher draws.

All numeric domains include both ends. A field declared `Searchable[float]` holds either a float or a
domain of floats until the spec is bound, and a float afterwards; static types describe the bound spec.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, overload

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator, core_schema

#: Larger integers are not exact as JSON numbers, nor in a database.
MAX_INTEGER = 2**53
#: Largest number of candidates of a stepped domain: as many as an experiment may have trials.
MAX_CANDIDATES = 100_000
#: Most alternatives of a choice: every check of a spec and every trial's sample walks them.
MAX_ALTERNATIVES = 1_000

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Integer = Annotated[int, Strict()]


def whole(value: Any) -> Any:
    """A whole number that is written with a fraction (3.0, 1e3) as an int; anything else as it is."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER
    return int(value) if exact else value


#: An Integer that may be written as 3.0. Fields of a spec need not say so: `Spec` reads them with `whole`.
WholeNumber = Annotated[Integer, BeforeValidator(whole)]


class Domain(BaseModel):
    """A set of candidate values. Each subclass has one field, named as the notation's keyword."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    keyword: ClassVar[str]


class Interval(Domain):
    """The numeric domains: `low` and `high` are both included. `form` says how the field is written."""

    form: ClassVar[str]
    log: ClassVar[bool] = False
    integer: ClassVar[bool] = False

    @property
    def bounds(self) -> tuple[float, ...]:
        values: tuple[float, ...] = getattr(self, self.keyword)
        return values

    @property
    def low(self) -> float:
        return self.bounds[0]

    @property
    def high(self) -> float:
        return self.bounds[1]

    @property
    def step(self) -> float | None:
        """Distance between neighboring candidates; None where the domain is continuous."""
        return 1 if self.integer else None

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.integer and max(map(abs, self.bounds)) > MAX_INTEGER:
            raise PydanticCustomError("domain_size", "must have whole numbers of at most 2^53")
        if not self.low < self.high:
            raise PydanticCustomError("domain_order", "must have low < high")
        if self.log and self.low <= 0:
            raise PydanticCustomError("log_domain_positive", "must have low > 0, because it is logarithmic")
        return self


D = TypeVar("D", bound=Interval)


def _check_count(domain: D, step: float) -> D:
    found = (domain.high - domain.low) / step + 1
    if found > MAX_CANDIDATES:
        raise PydanticCustomError(
            "domain_count",
            "must have at most {most} candidates (got {count})",
            {"most": MAX_CANDIDATES, "count": f"{found:.6g}"},
        )
    return domain


def _check_whole_steps(domain: D, step: float) -> D:
    steps = (domain.high - domain.low) / step if step > 0 else 0.0
    if not 0.5 < steps < math.inf or not math.isclose(steps, round(steps), abs_tol=1e-9):
        raise PydanticCustomError("domain_step", "must have a positive step such that high - low is a multiple of it")
    return _check_count(domain, step)


class Uniform(Interval):
    """Real numbers, each equally likely."""

    keyword: ClassVar[str] = "uniform"
    form: ClassVar[str] = "[low, high], both included"
    uniform: tuple[Number, Number] = Field(description=f"The ends as {form}.")


class LogUniform(Interval):
    """Positive real numbers whose logarithm is uniformly distributed."""

    keyword: ClassVar[str] = "loguniform"
    log: ClassVar[bool] = True
    form: ClassVar[str] = "[low, high], both included, low > 0"
    loguniform: tuple[Number, Number] = Field(description=f"The ends as {form}.")


class QUniform(Interval):
    """Real numbers low, low + step, low + 2 step, ... up to high."""

    keyword: ClassVar[str] = "quniform"
    form: ClassVar[str] = "[low, high, step], both ends included"
    quniform: tuple[Number, Number, Number] = Field(description=f"The ends and the step as {form}.")

    @property
    def step(self) -> float:
        return self.quniform[2]

    @model_validator(mode="after")
    def _whole_steps(self) -> QUniform:
        return _check_whole_steps(self, self.step)


class IntRange(Interval):
    """Whole numbers low, low + step, ... up to high; step is 1 unless given."""

    keyword: ClassVar[str] = "int_range"
    integer: ClassVar[bool] = True
    form: ClassVar[str] = "[low, high] or [low, high, step], both ends included"
    int_range: tuple[WholeNumber, WholeNumber] | tuple[WholeNumber, WholeNumber, WholeNumber] = Field(
        description=f"The ends, and the step if it is not 1, as {form}."
    )

    @property
    def step(self) -> int:
        return int(self.bounds[2]) if len(self.bounds) == 3 else 1

    @model_validator(mode="after")
    def _whole_steps(self) -> IntRange:
        return _check_whole_steps(self, self.step)


class LogIntRange(Interval):
    """Positive whole numbers whose logarithm is uniformly distributed."""

    keyword: ClassVar[str] = "log_int_range"
    integer: ClassVar[bool] = True
    log: ClassVar[bool] = True
    form: ClassVar[str] = "[low, high], both included, low > 0"
    log_int_range: tuple[WholeNumber, WholeNumber] = Field(description=f"The ends as {form}.")

    @model_validator(mode="after")
    def _countable(self) -> LogIntRange:
        return _check_count(self, 1)


class Choice(Domain):
    """A list of alternatives: values, numeric domains, or blocks (such as an optimizer) that may contain domains."""

    keyword: ClassVar[str] = "choice"
    choice: tuple[Any, ...] = Field(
        min_length=1, description="Values, numeric domains, or blocks (such as an optimizer) that may contain domains."
    )


FLOAT_DOMAINS: tuple[type[Interval], ...] = (Uniform, LogUniform, QUniform)
INTEGER_DOMAINS: tuple[type[Interval], ...] = (IntRange, LogIntRange)
DOMAINS: tuple[type[Domain], ...] = (*FLOAT_DOMAINS, *INTEGER_DOMAINS, Choice)
KEYWORDS = frozenset(domain.keyword for domain in DOMAINS)


class Candidates(Sequence[float]):
    """The values of a stepped domain in ascending order, none of which is listed. Raises ValueError for a continuous
    domain."""

    def __init__(self, domain: Interval) -> None:
        self._domain = domain
        self._count = count(domain)
        self._step = domain.step or 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> float: ...

    @overload
    def __getitem__(self, index: slice) -> list[float]: ...

    def __getitem__(self, index: int | slice) -> float | list[float]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(f"must be from 0 to {self._count - 1} (got {index})")
        return quantize(self._domain, self._domain.low + index * self._step)


def count(domain: Interval) -> int:
    """Number of candidates of a stepped domain. Raises ValueError for a continuous one."""
    if domain.step is None:
        raise ValueError(f"must be finite for a grid (got {domain.keyword}: {list(domain.bounds)})")
    return round((domain.high - domain.low) / domain.step) + 1


def quantize(domain: Interval, value: float) -> float:
    """`value` as an int for integer domains, and free of binary noise (0.30000000000000004) for quantized ones."""
    if domain.integer:
        return round(value)
    if domain.step is None:
        return value
    for end in (domain.low, domain.high):
        if math.isclose(value, end, rel_tol=0, abs_tol=1e-6 * domain.step):
            return end
    return round(value, 9 - math.floor(math.log10(domain.step)))


def bounds_of(value: Any) -> tuple[float, float]:
    """The least and the greatest number that a value or a domain of numbers may become."""
    if isinstance(value, Interval):
        return value.low, value.high
    if isinstance(value, Choice):
        each = [bounds_of(item) for item in value.choice]
        return min(low for low, _ in each), max(high for _, high in each)
    return value, value


def numeric_domains(annotation: Any) -> tuple[type[Interval], ...]:
    """The intervals that a field of this annotation may hold."""
    arms = _arms(annotation)
    if Any in arms:
        return FLOAT_DOMAINS + INTEGER_DOMAINS
    if float in arms:
        return FLOAT_DOMAINS
    return INTEGER_DOMAINS if int in arms else ()


def holds_only_integers(annotation: Any) -> bool:
    """Whether the numbers that a field of this annotation may hold are whole."""
    return numeric_domains(annotation) == INTEGER_DOMAINS


def holds_domain(annotation: Any, metadata: Iterable[Any] = ()) -> bool:
    """Whether a field, or the values of a mapping, are declared `Searchable`."""
    marks = (*metadata, *getattr(annotation, "__metadata__", ()))
    return any(isinstance(mark, _Searchable) for mark in marks) or any(map(holds_domain, get_args(annotation)))


def _arms(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, without their metadata; the type itself if it is no union."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _arms(get_args(annotation)[0])
    if origin is Union or origin is UnionType:
        return tuple(inner for arm in get_args(annotation) for inner in _arms(arm))
    return (annotation,)


class _Searchable:
    """Pydantic marker: the annotated type, or a domain whose every candidate is valid for that type."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        value = handler(source)
        if holds_only_integers(source):
            value = core_schema.no_info_before_validator_function(whole, value)
        alternatives: dict[str, CoreSchema] = {"value": value}
        for domain in numeric_domains(source):
            alternatives[str(domain.keyword)] = core_schema.no_info_after_validator_function(
                _EndsValid(value), handler.generate_schema(domain)
            )
        alternatives["choice"] = _choice_schema(dict(alternatives))
        return core_schema.tagged_union_schema(
            alternatives,
            discriminator=_tag,
            custom_error_type="domain_kind",
            custom_error_message=f"must be a value or one of {', '.join(sorted(KEYWORDS & alternatives.keys()))}",
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Any alternative, not exactly one: where a value may be anything, so may what looks like a domain."""
        whole = handler(schema)
        return {"anyOf": whole.pop("oneOf"), **whole}


class _EndsValid:
    """Checks that both ends of an interval obey the rule of the field that holds it."""

    def __init__(self, value_schema: CoreSchema) -> None:
        self._validator = SchemaValidator(value_schema)

    def __call__(self, domain: Interval) -> Interval:
        for name, end in (("low", domain.low), ("high", domain.high)):
            try:
                self._validator.validate_python(int(end) if domain.integer else end)
            except ValidationError as error:
                rule = error.errors()[0]["msg"].replace("Input should be", "must be")
                raise PydanticCustomError("domain_bound", "{name} {rule}", {"name": name, "rule": rule}) from None
        return domain


def _choice_schema(alternatives: dict[str, CoreSchema]) -> CoreSchema:
    item = core_schema.tagged_union_schema(alternatives, discriminator=_tag)
    field = core_schema.typed_dict_field(core_schema.tuple_schema([item], variadic_item_index=0, min_length=1))
    either = core_schema.union_schema(list(alternatives.values()))
    documented = core_schema.typed_dict_field(
        core_schema.list_schema(either, min_length=1, max_length=MAX_ALTERNATIVES)
    )
    return core_schema.chain_schema(
        [
            core_schema.no_info_before_validator_function(
                _listed,
                core_schema.typed_dict_schema({"choice": field}, extra_behavior="forbid"),
                json_schema_input_schema=core_schema.typed_dict_schema({"choice": documented}, extra_behavior="forbid"),
            ),
            core_schema.no_info_plain_validator_function(
                lambda fields: Choice.model_construct(choice=fields["choice"]),
                serialization=core_schema.plain_serializer_function_ser_schema(
                    lambda domain: {"choice": [_plain(item) for item in domain.choice]}
                ),
            ),
        ]
    )


def _listed(value: Any) -> Any:
    """A choice as plain data; one that is too long is refused before any alternative is checked."""
    given = {"choice": value.choice} if isinstance(value, Choice) else value
    items = given.get("choice") if isinstance(given, dict) else None
    if isinstance(items, list | tuple) and len(items) > MAX_ALTERNATIVES:
        raise PydanticCustomError(
            "choice_length",
            "must have at most {most} alternatives (got {count}); use a range, or list fewer",
            {"most": MAX_ALTERNATIVES, "count": len(items)},
        )
    return given


def _plain(item: Any) -> Any:
    return item.model_dump(mode="json") if isinstance(item, BaseModel) else item


def _tag(value: Any) -> str:
    if isinstance(value, Domain):
        return value.keyword
    if isinstance(value, dict) and len(value) == 1:
        (key,) = value
        if key in KEYWORDS:
            return str(key)
    return "value"


T = TypeVar("T")
Searchable = Annotated[T, _Searchable()]
