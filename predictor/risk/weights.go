package risk

// weighted is one input of the model and what it adds to the log odds.
type weighted struct {
	name   string
	weight float64
}

// bias and weights are what TestFit makes of CISA's Vulnrichment of 2024-10-24 and the catalogue of known exploited
// vulnerabilities of that day (both CC0): 38,074 CVEs published since 2023, 149 of them exploited. Ridge penalty 1.
const bias = -8.31

// weightPoC is what a published proof of concept adds to the log odds. The fit cannot tell: what was exploited has been
// marked so instead. Published exploit code is among the strongest signs of exploitation in the studies behind EPSS (Jacobs
// and others, arXiv 1908.04856 and 2302.14172); doubling the odds is less than they found, because much of what the data
// calls a proof of concept concerns programs that hardly anybody runs.
const weightPoC = 0.7

var weights = []weighted{
	{"score", -0.06},
	{"score 9 and more", 0.31},
	{"no vector", -0.08},
	{"network", 0.34},
	{"local", 0.25},
	{"adjacent or physical", -0.51},
	{"complex", -0.48},
	{"no privileges", 0.43},
	{"high privileges", 0.52},
	{"user takes part", -0.36},
	{"network, no privileges, no user", 0.33},
	{"scope changes", 0.61},
	{"high impacts", 1.01},
	{"all impacts low", -0.11},
	{"total control", 0.93},
	{"automatable", 0.90},
	{"total and automatable", -0.06},
	{"official correction", 0.59},
	{"memory", 0.96},
	{"stack", -1.18},
	{"read", 0.29},
	{"command", 0.70},
	{"deserialization", 0.44},
	{"path", 0.66},
	{"authentication", 1.12},
	{"authorization", -0.77},
	{"csrf", -0.54},
	{"xss", -0.57},
	{"sql", -0.42},
	{"upload", -0.60},
	{"request", 0.65},
	{"protection", 1.61},
	{"privilege", 0.26},
	{"exhaustion", 0.19},
}
