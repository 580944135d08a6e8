package evidence

// Level is a class of risk. Its order is its severity.
type Level string

// The levels of risk.
const (
	Low      Level = "low"
	Medium   Level = "medium"
	High     Level = "high"
	Critical Level = "critical"
)

// Levels lists them from lowest to highest.
var Levels = []Level{Low, Medium, High, Critical}

// The factors of risk, by name.
const (
	FactorVulnerabilities = "vulnerabilities"
	FactorThreats         = "threat contacts"
	FactorTechniques      = "attack patterns"
	FactorPrivileges      = "requested privileges"
	FactorNovelty         = "novelty"
	FactorAnomaly         = "anomaly"
	FactorProfile         = "profile"
	FactorSinks           = "resource sinks"
	FactorLoad            = "node load"
)

// Factor is one reason for a risk.
type Factor struct {
	Name       string  `json:"name"`
	Severity   float64 `json:"severity"`   // of what may happen, 0 to 1
	Likelihood float64 `json:"likelihood"` // that it does, 0 to 1
	Share      float64 `json:"share"`      // of the score, 0 to 1; all factors' shares sum to 1, or to 0 without risk
	Why        string  `json:"why"`
}

// Risk is what may go wrong with a container, severity times likelihood over its factors.
type Risk struct {
	Score   float64  `json:"score"` // 0 to 100
	Level   Level    `json:"level"`
	Factors []Factor `json:"factors,omitempty"` // largest share first
}
