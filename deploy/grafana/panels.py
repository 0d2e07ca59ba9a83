"""Dashboards as values (rows of panels), and their conversion to Grafana's JSON. Does not know any metric."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.models.common import BigValueTextMode, DataSourceRef, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The datasource selected at the top of the dashboard."""

TAG = "qwen3-tts-serve"
_WIDTH = 24
_HEIGHTS = {"stat": 4, "series": 8}
_COLOURS = ("green", "orange", "red")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel; ``legend`` may name labels, as in ``{{code}}``."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        unit: Grafana's name of the unit.
        description: what a good value is, and what a bad one means.
        queries: one or more.
        stat: show one large number instead of lines.
        limits: values from which it is orange and red; if the second is smaller, low values are bad.
        maximum: upper end of the axis, if any.
        names: show the legend instead of the number.
    """

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    stat: bool = False
    limits: tuple[float, float] | None = None
    maximum: float | None = None
    names: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side, under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable at the top of a dashboard, whose value is one of a label's values."""

    name: str
    label: str
    query: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page.

    Attributes:
        name: name of the file, and end of the uid.
        title: title of the page.
        description: the question that it answers.
        rows: from top to bottom.
        choices: variables in addition to the datasource.
    """

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    choices: tuple[Choice, ...] = ()


def built(page: Dashboard) -> build.Dashboard:
    """Build the page for Grafana, laid out on its grid of 24 columns."""
    builder = (
        build.Dashboard(f"Speech: {page.title}")
        .uid(f"qwen3-tts-{page.name}")
        .description(page.description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            build.DashboardLink("Speech")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)  # noqa: FBT003 - the SDK's setters take their value alone
            .include_vars(True)  # noqa: FBT003 - the same
        )
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(build.AdHocVariable("filters").label("Filters").datasource(DATASOURCE))
    )
    for choice in page.choices:
        builder = builder.with_variable(_choice(choice))
    number = 0
    for row in page.rows:
        number += 1
        builder = builder.with_row(build.Row(row.title).id(number))
        for panel, width in zip(row.panels, _widths(len(row.panels)), strict=True):
            number += 1
            shown = _stat(panel) if panel.stat else _series(panel)
            builder = builder.with_panel(shown.id(number).span(width))
    return builder


def _widths(count: int) -> list[int]:
    """Width of each panel in columns: at most four panels in a line, and each line is full."""
    columns: list[int] = []
    while count:
        line = count if count <= 4 else 3
        columns += [_WIDTH // line] * line
        count -= line
    return columns


def _choice(choice: Choice) -> build.QueryVariable:
    return (
        build.QueryVariable(choice.name)
        .label(choice.label)
        .datasource(DATASOURCE)
        .query(choice.query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def _queries(panel: Panel) -> list[Dataquery]:
    return [
        Dataquery().datasource(DATASOURCE).expr(query.expr).legend_format(query.legend).range().ref_id(chr(65 + number))
        for number, query in enumerate(panel.queries)
    ]


def _stat(panel: Panel) -> Stat:
    shown = (
        Stat()
        .title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .unit(panel.unit)
        .height(_HEIGHTS["stat"])
        .targets(_queries(panel))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .text_mode(BigValueTextMode.NAME if panel.names else BigValueTextMode.AUTO)
        .thresholds(_thresholds(panel))
    )
    return shown if panel.maximum is None else shown.max(panel.maximum)


def _series(panel: Panel) -> TimeSeries:
    shown = (
        TimeSeries()
        .title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .unit(panel.unit)
        .height(_HEIGHTS["series"])
        .targets(_queries(panel))
        .min(0)
        .fill_opacity(8)
        .legend(
            VizLegendOptions()
            .show_legend(True)  # noqa: FBT003 - the SDK's setters take their value alone
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .thresholds(_thresholds(panel))
    )
    return shown if panel.maximum is None else shown.max(panel.maximum)


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    steps = [Threshold(value=None, color=_COLOURS[0])]
    if panel.limits is not None:
        first, second = panel.limits
        colours = _COLOURS if first < second else _COLOURS[::-1]
        values = (None, *sorted(panel.limits))
        steps = [Threshold(value=value, color=colour) for value, colour in zip(values, colours, strict=True)]
    return build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
