"""How good a model is: scores, plots and reports; loaded on first use."""

from __future__ import annotations

from fusedlm._lazy import lazy

_HOME = {
    "Likelihoods": "likelihood",
    "bootstrap_error": "intervals",
    "fairness_report": "fairness",
    "fairness_table": "fairness",
    "model_card": "card",
    "read_items": "multiple_choice",
    "score_items": "multiple_choice",
    "text_loss": "perplexity",
    "wilson_interval": "intervals",
    "calibration": "classification",
    "classification_report": "classification",
    "confusion_matrix": "classification",
    "worst_errors": "classification",
    "answer_report": "answers",
    "entity_report": "entities",
    "spans": "entities",
    "plot_calibration": "plots",
    "plot_confusion": "plots",
    "plot_fairness": "plots",
    "plot_positions": "plots",
    "write_report": "report",
}
__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
