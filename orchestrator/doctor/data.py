"""The data sets of the sweep: whether their files are there."""

from orchestrator.doctor.finding import Finding, Level, Question

CHECK = "data"


def findings(question: Question) -> list[Finding]:
    """A line for each data set that cannot be read here."""
    sets = question.sweep.data_sets() if question.sweep else []
    found = [
        Finding(CHECK, Level.PROBLEM, obstacle, "put the files there, or name their place in the sweep file")
        for data in sets
        if (obstacle := data.obstacle())
    ]
    names = ", ".join(dict.fromkeys(data.name for data in sets))
    return found or [Finding(CHECK, Level.OK, f"{names}: there" if sets else "no sweep: no data to look at")]
