// Package monitor follows the running containers of a node: it gives what they report to the forecasters, the anomaly
// detectors and the threat feeds, and says what these find. What a workload's runs taught is kept as a baseline for its next
// run, in memory and in the store.
//
// It decides nothing: findings raise risk (predictor/risk) and are events. Containers and baselines are bounded in number;
// the one not heard of for longest goes. A Monitor may be used from any goroutine; reports of one container are taken one
// after the other. Time comes with the reports.
package monitor
