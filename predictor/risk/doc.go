// Package risk puts a number on what may go wrong with a container: severity times likelihood over named factors, each
// with its share and its reason (Assess), and on how likely a vulnerability is to be exploited (Exploitation).
//
// The package is pure: the same evidence gives the same risk, everywhere and always. What is done about a risk is decided
// in predictor/recommend.
package risk
