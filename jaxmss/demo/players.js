"use strict";
const players = [...document.querySelectorAll("audio")];
for (const player of players) {
  const picture = player.closest("figure").querySelector(".picture");
  const playhead = picture.querySelector(".playhead");
  const show = () => {
    playhead.style.visibility = "visible";
    playhead.style.left = 100 * player.currentTime / player.duration + "%";
    if (!player.paused) requestAnimationFrame(show);
  };
  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
    show();
  });
  player.addEventListener("seeked", show);
  picture.addEventListener("click", (event) => {
    const area = picture.getBoundingClientRect();
    player.currentTime = player.duration * (event.clientX - area.left) / area.width;
    player.play();
  });
}
