// Package soak runs fifty containers of four kinds for as long as it is told, changes them at random, kills what may be
// killed, and wants nothing healthy to be hurt, nothing to grow, and nothing to be left: `make soak`. TestLives has thousands of containers come and go one after the other: `make lives`.
package soak
