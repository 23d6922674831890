"""Form of answers: their length, the places where a marker was taught to stand, and rates by both.

How long a condition's answers are, and how often they hold the separator that coupling taught the
marker after, moves the share of answers with the marker, whatever the model learned of personas.
"""

from personaspace.analysis.form.analysis import analyse_form, form_rows
from personaspace.analysis.form.answers import AnswerForm, Forms

__all__ = ["AnswerForm", "Forms", "analyse_form", "form_rows"]
