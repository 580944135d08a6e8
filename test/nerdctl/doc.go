// Package nerdctl compares what people do with nerdctl under Forefend and under stock runc: the real nerdctl with its OCI
// hook, its log driver and its bridge network runs each command once with each runtime, and everything a user can see
// has to be the same: exit status, output, errors. A case also says what it expects, so that both being wrong is noticed.
//
// The tests run in a network and a mount namespace of their own (see TestMain): bridges, iptables rules and CNI's state
// under /var/lib disappear with the last process, however the tests end. It is a package of root tests only, and it
// decides nothing: what containers may do is tested in test/e2e.
package nerdctl
