# SPDX-License-Identifier: GPL-2.0-only
#
# Bars in groups, one group a workload: how fast each contender is compared with
# the one after the slash. report.py sets data, picture, heading, bars and
# groups; a line of data is a workload, then median, lowest and highest of each
# bar. A bar that is too long ends at the top; its number says how long it is.

top = 2.0
width = 1.0 / (bars + 1)
x(i) = column(0) + (i - (bars + 1) / 2.0) * width
cut(y) = y > top ? top : y

set terminal pngcairo size (groups > 8 ? 160 * groups : 1280),640 font 'sans,12' background '#ffffff'
set output picture
set title heading font 'sans,15' offset 0,0.5
set ylabel "rate, as a multiple of the rate\nof the contender after the slash"
set xlabel 'workload, block size and queue depth'
set xrange [-0.6:groups - 0.4]
set yrange [0:top * 1.1]
set ytics 0.25
set grid ytics linecolor '#dddddd' linetype 1
set border 3
set xtics scale 0
set ytics nomirror
set style fill solid 1 noborder
set key outside below center horizontal reverse Left width 2 spacing 1.2
set arrow from graph 0, first 1 to graph 1, first 1 nohead linewidth 2 \
	linecolor '#555555' front

array colour[8] = ['#88bbdd', '#0055a4', '#e69f00', '#cc79a7', '#008060', \
	'#aa4422', '#777777', '#ddcc44']

plot for [i=1:bars] data \
	using (x(i)):(cut(column(3*i-1))):(width * 0.92) \
	with boxes linecolor rgb colour[i] title columnheader(3*i-1), \
	for [i=1:bars] data skip 1 \
	using (x(i)):(cut(column(3*i))):(0):(cut(column(3*i+1)) - cut(column(3*i))) \
	with vectors nohead linewidth 1.5 linecolor '#222222' notitle, \
	for [i=1:bars] data skip 1 \
	using (x(i)):(cut(column(3*i+1))):(sprintf('%.2f', column(3*i-1))) \
	with labels rotate by 90 left offset 0,0.4 font 'sans,10' notitle, \
	data skip 1 using 0:(0):xticlabel(1) with impulses notitle
