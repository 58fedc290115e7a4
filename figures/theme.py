"""How every figure looks: one plotly template, one color and one label a behavior."""

import plotly.graph_objects as go
import plotly.io as pio

TEMPLATE = "whenlens"
"""Name under which the template is registered in `plotly.io.templates`."""

BEHAVIOR_COLORS = {
    "initializing": "#999933",
    "deduction": "#56B4E9",
    "adding-knowledge": "#882255",
    "example-testing": "#E69F00",
    "uncertainty-estimation": "#CC79A7",
    "backtracking": "#D55E00",
    "verification": "#009E73",
    "subgoal-setting": "#0072B2",
    "final-answer": "#332288",
}
"""Okabe and Ito's colors (2008, "Color universal design"); the three behaviors left over take
colors of Paul Tol's muted scheme, because Okabe-Ito's yellow is too pale for a line on white."""

BASE = "#8C8C8C"
THINKING = "#1A1A1A"
NULL = "#DADADA"
INK = "#262626"
UNKNOWN = "#5F6B7A"
"""Color of a behavior outside the taxonomy (an unsupervised category, say)."""

KIND_COLORS = {
    "hybrid": "#D55E00",
    "method": "#0072B2",
    "control": "#7F7F7F",
    "ceiling": "#1A1A1A",
    "baseline": "#009E73",
}
"""Kinds of arms of a hybrid run, in the order in which they are shown; `hybrid` is the chosen arm."""

SOURCE_COLORS = {"thinking": THINKING, "base": BASE, "hybrid": "#D55E00"}
"""Whose traces: a model's color is the same everywhere."""

COMPONENT_COLORS = {"resid_post": "#1A1A1A", "attn_out": "#0072B2", "mlp_out": "#E69F00"}
"""Components whose output is patched."""

PLACE_COLORS = {"disagreement": "#D55E00", "first": "#0072B2", "agreement": BASE}
"""Kinds of tokens at which two models are compared, the most telling first."""

EFFECT_COLORS = {"upstream": "#0072B2", "late": "#E69F00", "interaction": "#CC79A7"}
"""Effects of a factorial patch."""

MONO = '"DejaVu Sans Mono", Menlo, "Liberation Mono", "Courier New", monospace'
"""Fonts whose characters are all about 0.6 em wide: marks under the text can be placed."""

_FONT = 'Helvetica, Arial, "Liberation Sans", sans-serif'


def color(behavior: str) -> str:
    """Hex color of a behavior, the same in every figure and in the report."""
    return BEHAVIOR_COLORS.get(behavior, UNKNOWN)


def label(behavior: str) -> str:
    """Display label: `subgoal-setting` becomes `Subgoal setting`."""
    words = behavior.replace("-", " ").replace("_", " ")
    return words[:1].upper() + words[1:]


def wrapped(behavior: str) -> str:
    """Display label over two lines, for the narrow title of a small multiple."""
    return label(behavior).replace(" ", "<br>", 1)


def _template() -> go.layout.Template:
    axis = {
        "showline": True,
        "linecolor": INK,
        "linewidth": 1,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": INK,
        "tickfont": {"size": 13},
        "title": {"font": {"size": 14}, "standoff": 8},
        "showgrid": True,
        "gridcolor": "#EEEEEE",
        "gridwidth": 1,
        "zeroline": False,
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": _FONT, "size": 14, "color": INK},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "colorway": list(BEHAVIOR_COLORS.values()),
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 70, "r": 20, "t": 50, "b": 60},
            "hoverlabel": {"font": {"family": _FONT, "size": 13}},
            "legend": {"font": {"size": 13}, "orientation": "h", "itemsizing": "trace"},
            "annotationdefaults": {"font": {"size": 14, "color": INK}},
        }
    )


pio.templates[TEMPLATE] = _template()
