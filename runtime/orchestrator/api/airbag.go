package api

// SourceAirbag is the source of changes of a predicted memory limit: of the shim's, which come before the limit is reached, and of the
// daemon's, which look further.
const SourceAirbag = "airbag"

// Airbag is what a shim needs to raise a predicted memory limit before it is reached, without asking anybody
// (docs/decisions/0057). It comes with the decision; nil means that the container has no such limit.
type Airbag struct {
	Predicted int64 `json:"predicted"` // the limit as predicted, bytes; calm lowers to it and no further
	// Ceiling is where raising ends: what would hold without the prediction, or else what the node can give.
	Ceiling   int64  `json:"ceiling"`
	CeilingBy string `json:"ceiling_by"` // "config.toml [guardrails]", "node: 24 GiB without the 256 MiB it keeps"
	Reserve   int64  `json:"reserve"`    // bytes that stay free on the node

	// Held says why all growth above Predicted is anomalous: the limit stays, and growth is reported. Empty: it is not.
	Held string `json:"held,omitempty"`
	// Growth is how many times Predicted the container may come to need before that is anomalous, for the reason
	// GrowthBy; 0: as often as there is room for.
	Growth   float64 `json:"growth,omitempty"`
	GrowthBy string  `json:"growth_by,omitempty"`

	// Sized is the program that sized itself by its limit when it started: its limit is never lowered. Empty: none.
	Sized string `json:"sized,omitempty"`
}
