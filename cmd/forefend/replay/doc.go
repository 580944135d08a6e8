// Package replay decides recorded runs again, under other settings, with the code that decides them in the daemon: the
// history is grown run by run, so that each is predicted from what had ended before it, judged, merged, and what it did is
// held against what it would have been allowed. It changes nothing, and says what a record cannot tell.
//
// It is not for measuring models: that is cmd/forefend/eval.
package replay
