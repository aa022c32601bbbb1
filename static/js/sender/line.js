/** The beeline as a progress bar; templates/fragments/_look.html has its parts. @param {HTMLElement} line @param {number} percent */
export function drawLine(line, percent) {
  if (line.getAttribute('aria-valuenow') === String(percent)) return;
  line.setAttribute('aria-valuenow', String(percent));
  line.querySelector('.beeline-drawn')?.setAttribute('stroke-dasharray', `${percent} 200`);
  line.querySelector('.beeline-now')?.setAttribute('cx', `${percent}%`);
}
