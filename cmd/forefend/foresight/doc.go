// Package foresight asks the daemon's models what they know of a container and puts the answers together: history, static
// analysis, node load, threat intelligence, profiles, and from these risk and recommendation. It is where models meet
// that do not know one another (docs/decisions/0027); the evaluations build the same models.
//
// Each source answers from memory within the budget of a prediction, or is left out and says why. Sources may be used
// from any goroutine.
package foresight
