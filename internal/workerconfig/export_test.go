package workerconfig

// FirstOf is for the tests.
var FirstOf = firstOf
