// Package evidence is the vocabulary of prediction: what each input (static analysis, node load, threat feeds,
// profiles) has to say about a container, and what the models make of it (forecasts, anomalies, risk).
//
// It is a leaf: plain data that travels as JSON between scanner, daemon and command line. How a value comes about is
// the business of the package that makes it: predictor/scan, nodeload, threat, profile, forecast, anomaly, risk.
package evidence
