package strictyaml

// Problem is one thing that is wrong with a value. A type that has a method
//
//	Problems() []Problem
//
// is asked after it was decoded.
type Problem struct {
	// Field is the path below the value, "" for the value itself: "onBreach", "labels.team", "from[0]".
	Field string
	// What is wrong: "is 3m, longer than the cadence of 2m".
	What string
	// Write says what to write instead.
	Write string
}
