"""FlowEdit: text edits with a flow model, without inverting the source (Kulikov et al. 2024)."""

from .edit import SOURCE, TARGET, FlowEdit, FlowEditPrompts, check_sigmas, flow_edit

__all__ = ["SOURCE", "TARGET", "FlowEdit", "FlowEditPrompts", "check_sigmas", "flow_edit"]
