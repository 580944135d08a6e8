// Package anomaly tells how far a running container departs from what its workload did before, and whether that is
// far enough to be an alarm.
//
// Four detectors live here, each a concrete type that learns, scores, and keeps what it learned in a State:
// Sequence (the order of system calls), Mix (how many of which calls in a tenth of a second), Series (one value per
// time step: memory, CPU, processes) and Novelty (destinations, executed programs). Every threshold is set by the same
// rule: so many false alarms per container-hour, estimated by a Tail from scores the detector gave to what it had not
// yet learned.
//
// Baseline holds the detectors of one workload; Watch follows one of its running containers. The package reads no
// clock, file or network: time comes with the observations. A Baseline has a lock and may be used by several
// goroutines; the detectors and a Watch have none and belong to one goroutine at a time.
package anomaly
