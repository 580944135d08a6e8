// Package upgrade replaces Forefend under running containers and takes it back again: a commit of the past and the present
// tree, on a real containerd. It is for its tests alone, which are root tests.
package upgrade
