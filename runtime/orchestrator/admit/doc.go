// Package admit turns a request, a prediction and a site's rules into a
// Decision. The daemon uses it for every Create; the shim uses the same code
// when no daemon can be asked, so both decide alike.
//
// It reads no file and keeps no state. Functions may be called from any goroutine.
package admit
